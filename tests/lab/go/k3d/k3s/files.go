package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// Where k3s has its files. Everything under dataDir is on a volume.
const (
	dataDir      = "/var/lib/rancher/k3s"
	tlsDir       = dataDir + "/server/tls"
	etcDir       = dataDir + "/agent/etc"
	certsDir     = etcDir + "/containerd/certs.d"
	manifestsDir = dataDir + "/server/manifests"
	etcdDir      = dataDir + "/server/db/etcd"
	storageDir   = dataDir + "/storage"
	logDir       = "/var/log/k3s"
	runDir       = "/run/k3s"
	socket       = runDir + "/containerd/containerd.sock"

	registriesFile    = "/etc/rancher/k3s/registries.yaml"
	nodeKubeconfig    = "/etc/rancher/k3s/k3s.yaml"
	packagedArchives  = "/usr/share/k3s/archives"
	packagedManifests = "/usr/share/k3s/manifests"
	containerdConfig  = etcDir + "/containerd/config.toml"
	kubeletConfig     = etcDir + "/kubelet.yaml"
	resolvConf        = etcDir + "/resolv.conf"
	pauseImage        = "docker.io/k3s/pause:packaged"
	apiPort           = 6443
)

func kubeconfigOf(component string) string {
	return filepath.Join(dataDir, "server/cred", component+".kubeconfig")
}

func writeKubeconfigs(pki PKI) error {
	for component, user := range map[string]pair{
		"controller": pki.ControllerManager,
		"scheduler":  pki.Scheduler,
		"kubelet":    pki.Kubelet,
		"kube-proxy": pki.Kproxy,
	} {
		if err := writeKubeconfig(kubeconfigOf(component), ownServer, pki.CA.pair, user); err != nil {
			return err
		}
	}
	return writeKubeconfig(nodeKubeconfig, ownServer, pki.CA.pair, pki.Admin)
}

// writeAdminKubeconfig hands the cluster's administration to k3d, which rewrites
// the address, and knows the entries by the name "default".
func writeAdminKubeconfig(pki PKI) error {
	output := os.Getenv("K3S_KUBECONFIG_OUTPUT")
	if output == "" || output == nodeKubeconfig {
		return nil
	}
	return writeKubeconfig(output, ownServer, pki.CA.pair, pki.Admin)
}

// ownServer is the API server as its own node reaches it.
var ownServer = fmt.Sprintf("https://127.0.0.1:%d", apiPort)

func writeKubeconfig(path, server string, ca, user pair) error {
	var encoded [3]string
	for i, file := range []string{ca.Certificate, user.Certificate, user.Key} {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		encoded[i] = base64.StdEncoding.EncodeToString(content)
	}
	return writeFile(path, []byte(fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: default
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: default
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: default
  context:
    cluster: default
    user: default
current-context: default
`, server, encoded[0], encoded[1], encoded[2])), 0o600)
}

// containerdTemplate differs from a usual config in one setting:
// restrict_oom_score_adj keeps a pod's OOM score within what this node may set,
// since lowering it further takes CAP_SYS_RESOURCE, which hosts may not give.
var containerdTemplate = template.Must(template.New("containerd").Parse(`version = 2
root = "{{.Data}}/agent/containerd"
state = "{{.Run}}/containerd"

[grpc]
  address = "{{.Socket}}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{{.Data}}/agent/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{{.Pause}}"
  restrict_oom_score_adj = true
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "{{.Certs}}"
{{range .Auths}}
[plugins."io.containerd.grpc.v1.cri".registry.configs.{{.Host}}.auth]
{{- range .Fields}}
  {{.Name}} = {{.Value}}
{{- end}}
{{end}}`))

func writeContainerdConfig(node Node) error {
	registries, err := readRegistries(registriesFile)
	if err != nil {
		return err
	}
	if err := registries.writeHosts(certsDir, node.NoDefaultRegistry); err != nil {
		return err
	}
	var config bytes.Buffer
	if err := containerdTemplate.Execute(&config, map[string]any{
		"Data": dataDir, "Run": runDir, "Socket": socket, "Pause": pauseImage, "Certs": certsDir,
		"Auths": registries.auths(),
	}); err != nil {
		return err
	}
	return writeFile(containerdConfig, config.Bytes(), 0o600)
}

// writeFirstNetworkConfig is the server's, before there is anybody to ask: the
// controller manager gives the first network of the cluster's to the first node.
func writeFirstNetworkConfig(node Node) error {
	_, cluster, err := net.ParseCIDR(node.ClusterCIDR)
	if err != nil {
		return err
	}
	first := net.IPNet{IP: cluster.IP, Mask: net.CIDRMask(24, 32)}
	return writeNetworkConfig(first.String())
}

// writeNetworkConfig gives each pod an address on one bridge. The reservations
// lie on a tmpfs: a stop of the node ends every pod, so they must end with it.
func writeNetworkConfig(subnet string) error {
	config, err := json.MarshalIndent(map[string]any{
		"cniVersion": "0.4.0",
		"name":       "pods",
		"plugins": []any{
			map[string]any{
				"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "promiscMode": false,
				"ipam": map[string]any{
					"type": "host-local", "dataDir": runDir + "/cni",
					"ranges": [][]any{{map[string]any{"subnet": subnet}}},
					"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
				},
			},
			map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}},
		},
	}, "", "  ")
	if err != nil {
		return err
	}
	return writeFile("/etc/cni/net.d/10-pods.conflist", config, 0o644)
}

// writeKubeletConfig is lenient where a laptop or a CI machine is tight: swap,
// cgroup v1 and a full disk don't stop a lab.
func writeKubeletConfig(node Node, pki PKI) error {
	dns, err := nthAddress(node.ServiceCIDR, 10)
	if err != nil {
		return err
	}
	if err := writeResolvConf(); err != nil {
		return err
	}
	config, err := json.MarshalIndent(map[string]any{
		"apiVersion":                  "kubelet.config.k8s.io/v1beta1",
		"kind":                        "KubeletConfiguration",
		"containerRuntimeEndpoint":    "unix://" + socket,
		"clusterDomain":               "cluster.local",
		"clusterDNS":                  []string{dns.String()},
		"resolvConf":                  resolvConf,
		"cgroupDriver":                "cgroupfs",
		"failCgroupV1":                false,
		"failSwapOn":                  false,
		"enforceNodeAllocatable":      []string{},
		"oomScoreAdj":                 0,
		"evictionHard":                map[string]string{"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
		"imageGCHighThresholdPercent": 100,
		"imageGCLowThresholdPercent":  99,
		"serializeImagePulls":         false,
		"tlsCertFile":                 pki.KubeletServing.Certificate,
		"tlsPrivateKeyFile":           pki.KubeletServing.Key,
		"authentication": map[string]any{
			"anonymous": map[string]bool{"enabled": false},
			"webhook":   map[string]bool{"enabled": true},
			"x509":      map[string]string{"clientCAFile": pki.CA.Certificate},
		},
		"authorization": map[string]string{"mode": "Webhook"},
	}, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(kubeletConfig, config, 0o644)
}

// writeResolvConf is the node's own without addresses on its loopback: inside a
// pod they would be the pod's.
func writeResolvConf() error {
	own, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return err
	}
	var kept []string
	for _, line := range strings.Split(strings.TrimSpace(string(own)), "\n") {
		fields := strings.Fields(line)
		if len(fields) == 2 && fields[0] == "nameserver" {
			if ip := net.ParseIP(fields[1]); ip != nil && ip.IsLoopback() {
				continue
			}
		}
		kept = append(kept, line)
	}
	return writeFile(resolvConf, []byte(strings.Join(kept, "\n")+"\n"), 0o644)
}
