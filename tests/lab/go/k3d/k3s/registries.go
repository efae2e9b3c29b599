package main

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Registries is k3s's registries.yaml. containerd wants the same as one
// hosts.toml per registry, and credentials in its own configuration.
type Registries struct {
	Mirrors map[string]struct {
		Endpoints []string `yaml:"endpoint"`
	} `yaml:"mirrors"`
	Configs map[string]struct {
		Auth *struct {
			Username      string `yaml:"username"`
			Password      string `yaml:"password"`
			Auth          string `yaml:"auth"`
			IdentityToken string `yaml:"identity_token"`
		} `yaml:"auth"`
		TLS *struct {
			CAFile             string `yaml:"ca_file"`
			CertFile           string `yaml:"cert_file"`
			KeyFile            string `yaml:"key_file"`
			InsecureSkipVerify bool   `yaml:"insecure_skip_verify"`
		} `yaml:"tls"`
	} `yaml:"configs"`
}

// readRegistries takes a file that isn't there for one that says nothing.
func readRegistries(path string) (Registries, error) {
	var registries Registries
	content, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return registries, nil
	}
	if err != nil {
		return registries, err
	}
	if err := yaml.Unmarshal(content, &registries); err != nil {
		return registries, fmt.Errorf("%s: %w", path, err)
	}
	return registries, nil
}

// writeHosts writes dir/NAME/hosts.toml for every registry that is mirrored or
// has TLS settings, and drops what an earlier start wrote.
func (r Registries) writeHosts(dir string, withoutDefault bool) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	names := map[string]bool{}
	for name := range r.Mirrors {
		names[name] = true
	}
	for name, config := range r.Configs {
		if config.TLS != nil && !r.isEndpoint(name) {
			names[name] = true
		}
	}
	for name := range names {
		content, err := r.hosts(name, withoutDefault)
		if err != nil {
			return err
		}
		folder := name
		if name == "*" {
			folder = "_default"
		}
		if err := writeFile(filepath.Join(dir, folder, "hosts.toml"), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// hosts lists where containerd looks for the images of one registry. After the
// mirrors it asks `server`, and when none is named the registry itself: without
// a default, `server` therefore has to be a mirror. That mirror is listed all
// the same, since containerd 1.6 takes a file without any `host` for a bad one.
func (r Registries) hosts(name string, withoutDefault bool) (string, error) {
	var endpoints []string
	for _, endpoint := range r.Mirrors[name].Endpoints {
		parsed, err := endpointURL(endpoint)
		if err != nil {
			return "", fmt.Errorf("%s: mirror of %s: %w", registriesFile, name, err)
		}
		endpoints = append(endpoints, parsed)
	}
	if len(endpoints) == 0 && name != "*" {
		endpoints = []string{"https://" + name}
		withoutDefault = true
	}
	var out strings.Builder
	if last := len(endpoints) - 1; withoutDefault && last >= 0 {
		fmt.Fprintf(&out, "server = %q\n", endpoints[last])
		out.WriteString(r.tlsOf(endpoints[last]))
	}
	for _, endpoint := range endpoints {
		fmt.Fprintf(&out, "\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n%s", endpoint, r.tlsOf(endpoint))
	}
	return out.String(), nil
}

func (r Registries) isEndpoint(name string) bool {
	for _, mirror := range r.Mirrors {
		for _, endpoint := range mirror.Endpoints {
			if hostOf(endpoint) == name {
				return true
			}
		}
	}
	return false
}

func (r Registries) tlsOf(endpoint string) string {
	tls := r.Configs[hostOf(endpoint)].TLS
	if tls == nil {
		return ""
	}
	var out strings.Builder
	if tls.CAFile != "" {
		fmt.Fprintf(&out, "  ca = %q\n", tls.CAFile)
	}
	if tls.CertFile != "" {
		fmt.Fprintf(&out, "  client = [[%q, %q]]\n", tls.CertFile, tls.KeyFile)
	}
	if tls.InsecureSkipVerify {
		out.WriteString("  skip_verify = true\n")
	}
	return out.String()
}

// authSetting is one `configs` entry of containerd's own configuration.
type authSetting struct {
	Host   string
	Fields []struct{ Name, Value string }
}

func (r Registries) auths() []authSetting {
	var settings []authSetting
	for host, config := range r.Configs {
		if config.Auth == nil {
			continue
		}
		setting := authSetting{Host: strconv.Quote(host)}
		add := func(name, value string) {
			if value != "" {
				setting.Fields = append(setting.Fields, struct{ Name, Value string }{name, strconv.Quote(value)})
			}
		}
		auth := config.Auth.Auth
		if auth == "" && config.Auth.Username != "" {
			auth = base64.StdEncoding.EncodeToString([]byte(config.Auth.Username + ":" + config.Auth.Password))
		}
		add("auth", auth)
		add("identitytoken", config.Auth.IdentityToken)
		settings = append(settings, setting)
	}
	sort.Slice(settings, func(i, j int) bool { return settings[i].Host < settings[j].Host })
	return settings
}

// endpointURL completes an endpoint the way k3s does: https unless it says
// otherwise. A path of its own replaces /v2, which hosts.toml must be told, and
// which nothing here uses, so it is refused.
func endpointURL(endpoint string) (string, error) {
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	parsed, err := url.Parse(endpoint)
	if err != nil {
		return "", err
	}
	if parsed.Host == "" || strings.Trim(parsed.Path, "/") != "" {
		return "", fmt.Errorf("endpoint %q: need SCHEME://HOST without a path", endpoint)
	}
	return parsed.Scheme + "://" + parsed.Host, nil
}

func hostOf(endpoint string) string {
	if _, rest, found := strings.Cut(endpoint, "://"); found {
		endpoint = rest
	}
	host, _, _ := strings.Cut(endpoint, "/")
	return host
}
