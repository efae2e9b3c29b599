package main

import (
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestHostsOfAMirroredRegistry(t *testing.T) {
	for _, row := range []struct {
		name, registries, registry string
		withoutDefault             bool
		want                       string
	}{
		{
			name:           "without a default, the mirror is the server too",
			registries:     `{mirrors: {"k3d-dev-reg:5000": {endpoint: ["http://k3d-dev-reg:5000"]}}}`,
			registry:       "k3d-dev-reg:5000",
			withoutDefault: true,
			want: `server = "http://k3d-dev-reg:5000"

[host."http://k3d-dev-reg:5000"]
  capabilities = ["pull", "resolve"]
`,
		},
		{
			name:       "with a default, the registry itself comes after its mirrors",
			registries: `{mirrors: {docker.io: {endpoint: ["mirror.example", "http://second:5000"]}}}`,
			registry:   "docker.io",
			want: `
[host."https://mirror.example"]
  capabilities = ["pull", "resolve"]

[host."http://second:5000"]
  capabilities = ["pull", "resolve"]
`,
		},
		{
			name:       "TLS settings without a mirror are those of the registry",
			registries: `{configs: {reg.example: {tls: {ca_file: /ca.pem, insecure_skip_verify: true}}}}`,
			registry:   "reg.example",
			want: `server = "https://reg.example"
  ca = "/ca.pem"
  skip_verify = true

[host."https://reg.example"]
  capabilities = ["pull", "resolve"]
  ca = "/ca.pem"
  skip_verify = true
`,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			var registries Registries
			if err := yaml.Unmarshal([]byte(row.registries), &registries); err != nil {
				t.Fatal(err)
			}
			got, err := registries.hosts(row.registry, row.withoutDefault)
			if err != nil {
				t.Fatal(err)
			}
			if got != row.want {
				t.Errorf("got\n%s\nwant\n%s", got, row.want)
			}
		})
	}
}

func TestAnEndpointWithAPathIsRefused(t *testing.T) {
	if url, err := endpointURL("https://mirror.example/proxy"); err == nil {
		t.Errorf("got %s, want an error", url)
	}
}
