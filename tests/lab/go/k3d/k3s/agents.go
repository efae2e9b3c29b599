package main

import (
	"bytes"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// joinPort is where a server admits agents; k3s does so on the API server's port.
const joinPort = 9345

// agentsFile tells a server that starts again that agents are there.
const agentsFile = dataDir + "/server/agents"

// routesEvery is the pause between two looks at which nodes there are.
const routesEvery = 3 * time.Second

// joined is what an agent gets for the cluster's token: the authority that it is
// to trust, and certificates that only its own node needs.
type joined struct {
	CA             string
	Kubelet        keyPair
	KubeletServing keyPair
	Kproxy         keyPair
}

// keyPair is a certificate and its key, as PEM.
type keyPair struct{ Certificate, Key string }

var nodeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)

// admitAgents serves the agents that know the cluster's token, and leads to
// their pods from the first one on.
func admitAgents(ctx context.Context, node Node, pki PKI) error {
	token := os.Getenv("K3S_TOKEN")
	if token == "" {
		return nil
	}
	certificate, err := tls.LoadX509KeyPair(pki.APIServer.Certificate, pki.APIServer.Key)
	if err != nil {
		return err
	}
	var first sync.Once
	server := &http.Server{
		Addr:      fmt.Sprintf(":%d", joinPort),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}},
		Handler: http.HandlerFunc(func(response http.ResponseWriter, request *http.Request) {
			given := []byte(request.Header.Get("Authorization"))
			if subtle.ConstantTimeCompare(given, []byte("Bearer "+token)) != 1 {
				http.Error(response, "not the cluster's token", http.StatusUnauthorized)
				return
			}
			// The first network is the server's own (writeFirstNetworkConfig): nobody
			// registers before it has it.
			if own, err := networkOf(request.Context(), node.Name); err != nil || own == "" {
				http.Error(response, "the server's node is not registered yet", http.StatusServiceUnavailable)
				return
			}
			admitted, err := admit(pki, request.FormValue("name"), request.FormValue("ip"))
			if err != nil {
				http.Error(response, err.Error(), http.StatusBadRequest)
				return
			}
			if err := writeFile(agentsFile, nil, 0o644); err != nil {
				say("%v", err)
			}
			first.Do(func() { go keepRoutes(ctx, node.Name) })
			_ = json.NewEncoder(response).Encode(admitted)
		}),
	}
	go func() {
		say("admitting agents ended: %v", server.ListenAndServeTLS("", ""))
	}()
	if _, err := os.Stat(agentsFile); err == nil {
		first.Do(func() { go keepRoutes(ctx, node.Name) })
	}
	return nil
}

func admit(pki PKI, name, ip string) (joined, error) {
	if !nodeName.MatchString(name) || net.ParseIP(ip) == nil {
		return joined{}, fmt.Errorf("no node %q at %q", name, ip)
	}
	var admitted joined
	authority, err := os.ReadFile(pki.CA.Certificate)
	if err != nil {
		return admitted, err
	}
	admitted.CA = string(authority)
	for _, leaf := range []struct {
		into   *keyPair
		file   string
		user   string
		groups []string
		names  []string
	}{
		{&admitted.Kubelet, "kubelet", "system:node:" + name, []string{"system:nodes"}, nil},
		{&admitted.KubeletServing, "serving", "system:node:" + name, []string{"system:nodes"}, []string{name, ip, "localhost", "127.0.0.1"}},
		{&admitted.Kproxy, "kube-proxy", "system:kube-proxy", nil, nil},
	} {
		issued, err := pki.CA.issue("agent-"+name+"-"+leaf.file, pkix.Name{CommonName: leaf.user, Organization: leaf.groups}, leaf.names)
		if err != nil {
			return admitted, err
		}
		certificate, err := os.ReadFile(issued.Certificate)
		if err != nil {
			return admitted, err
		}
		key, err := os.ReadFile(issued.Key)
		if err != nil {
			return admitted, err
		}
		*leaf.into = keyPair{string(certificate), string(key)}
	}
	return admitted, nil
}

// serveAgent runs a node of somebody else's control plane.
func serveAgent(ctx context.Context, options Options) error {
	server, err := url.Parse(os.Getenv("K3S_URL"))
	if err != nil || server.Host == "" {
		return fmt.Errorf("K3S_URL is no server: %q", os.Getenv("K3S_URL"))
	}
	node, err := describeNode(options)
	if err != nil {
		return err
	}
	say("starting agent %s at %s", node.Name, node.IP)
	if err := prepare(); err != nil {
		return err
	}
	deadline, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	pki, err := join(deadline, server, node)
	if err != nil {
		return err
	}
	// The node's own, which k3d's entry script uncordons the node with, is the kubelet's.
	for path, user := range map[string]pair{
		kubeconfigOf("kubelet"):    pki.Kubelet,
		kubeconfigOf("kube-proxy"): pki.Kproxy,
		nodeKubeconfig:             pki.Kubelet,
	} {
		if err := writeKubeconfig(path, server.String(), pki.CA.pair, user); err != nil {
			return err
		}
	}
	if err := writeContainerdConfig(node); err != nil {
		return err
	}
	if err := writeKubeletConfig(node, pki); err != nil {
		return err
	}
	children := newSupervisor(logDir)
	defer children.Stop()
	children.Start(containerd())
	if err := waitForContainerd(deadline); err != nil {
		return err
	}
	if err := importArchives(deadline); err != nil {
		return err
	}
	children.Start(kubelet(node))
	var subnet string
	err = waitFor(deadline, "a network for pods", func() error {
		subnet, err = networkOf(deadline, node.Name)
		if err == nil && subnet == "" {
			err = fmt.Errorf("the node has none yet")
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := writeNetworkConfig(subnet); err != nil {
		return err
	}
	children.Start(kubeProxy(node))
	say("Successfully registered node %s", node.Name)
	keepRoutes(ctx, node.Name)
	say("stopping")
	return nil
}

// join asks the server for this node's certificates. Whose server it is nothing
// tells an agent beforehand: both are on one network of this machine's.
func join(ctx context.Context, server *url.URL, node Node) (PKI, error) {
	client := &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	}
	defer client.CloseIdleConnections()
	address := fmt.Sprintf("https://%s/?%s", net.JoinHostPort(server.Hostname(), fmt.Sprint(joinPort)),
		url.Values{"name": {node.Name}, "ip": {node.IP.String()}}.Encode())
	var admitted joined
	err := waitFor(ctx, "the server", func() error {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(nil))
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+os.Getenv("K3S_TOKEN"))
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
		if err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", response.Status, strings.TrimSpace(string(body)))
		}
		return json.Unmarshal(body, &admitted)
	})
	var pki PKI
	if err != nil {
		return pki, err
	}
	pki.CA.pair = pairIn(tlsDir, "server-ca")
	if err := writeFile(pki.CA.Certificate, []byte(admitted.CA), 0o644); err != nil {
		return pki, err
	}
	for _, given := range []struct {
		into *pair
		file string
		keyPair
	}{
		{&pki.Kubelet, "client-kubelet", admitted.Kubelet},
		{&pki.KubeletServing, "serving-kubelet", admitted.KubeletServing},
		{&pki.Kproxy, "client-kube-proxy", admitted.Kproxy},
	} {
		*given.into = pair{filepath.Join(tlsDir, given.file+".crt"), filepath.Join(tlsDir, given.file+".key")}
		if err := writeFile(given.into.Certificate, []byte(given.keyPair.Certificate), 0o644); err != nil {
			return pki, err
		}
		if err := writeFile(given.into.Key, []byte(given.keyPair.Key), 0o600); err != nil {
			return pki, err
		}
	}
	return pki, nil
}

// networkOf is the network of a node's pods, as its own kubelet may read it.
func networkOf(ctx context.Context, node string) (string, error) {
	return ask(ctx, "kubelet", "get", "node", node, "--output", "jsonpath={.spec.podCIDR}")
}

// ask is kubectl with the rights of one of this node's components.
func ask(ctx context.Context, component string, arguments ...string) (string, error) {
	command := exec.CommandContext(ctx, "kubectl", append([]string{"--kubeconfig", kubeconfigOf(component)}, arguments...)...)
	output, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w", strings.Join(arguments, " "), err)
	}
	return strings.TrimSpace(string(output)), nil
}

const networksOfNodes = `jsonpath={range .items[*]}{.metadata.name} {.spec.podCIDR} {.status.addresses[?(@.type=="InternalIP")].address}{"\n"}{end}`

// keepRoutes leads to the pods of all other nodes, through their nodes, until the
// context ends. Where a look fails, what was known stays.
func keepRoutes(ctx context.Context, own string) {
	for {
		// A kubelet may read its own node alone.
		nodes, err := ask(ctx, "kube-proxy", "get", "nodes", "--output", networksOfNodes)
		if err != nil && ctx.Err() == nil {
			say("routes: %v", err)
		}
		for _, line := range strings.Split(nodes, "\n") {
			fields := strings.Fields(line)
			if len(fields) != 3 || fields[0] == own {
				continue
			}
			if output, err := exec.CommandContext(ctx, "ip", "route", "replace", fields[1], "via", fields[2]).CombinedOutput(); err != nil && ctx.Err() == nil {
				say("route to %s: %v: %s", line, err, strings.TrimSpace(string(output)))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(routesEvery):
		}
	}
}
