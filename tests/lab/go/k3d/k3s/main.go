// Command k3s is what the lab's node image runs where rancher/k3s runs k3s: it
// starts containerd and the Kubernetes components, and speaks to k3d the way
// k3s does.
//
// k3d rests on these habits of k3s, and on no others:
//
//   - the command line `k3s server --tls-san NAME …`, with HOSTNAME as the
//     node's name and the kubeconfig written to K3S_KUBECONFIG_OUTPUT;
//   - the log lines "k3s is up and running" and "Cluster dns configmap …";
//   - registries in /etc/rancher/k3s/registries.yaml;
//   - manifests in /var/lib/rancher/k3s/server/manifests, applied again when
//     they change: k3d writes the names of its containers into coredns.yaml;
//   - `kubectl` and `ctr` that work without further arguments;
//   - agents that are started as `k3s agent …` with K3S_URL and K3S_TOKEN, and
//     say "Successfully registered node".
//
// One server per cluster, and any number of agents. Data outlives a stop of the container; addresses
// don't, so everything that holds one is made anew at each start.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// readyWithin bounds how long the node may take to come up: a slow first start
// on a loaded machine is still a start, one that takes longer is a failure.
const readyWithin = 5 * time.Minute

func main() {
	options, err := parse(os.Args[1:])
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "k3s:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	run := serve
	if options.Agent {
		run = serveAgent
	}
	if err := run(ctx, options); err != nil {
		say("stopped: %v", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, options Options) error {
	node, err := describeNode(options)
	if err != nil {
		return err
	}
	say("starting node %s at %s", node.Name, node.IP)
	if err := prepare(); err != nil {
		return err
	}
	if err := unpackManifests(node); err != nil {
		return err
	}
	pki, err := issueCertificates(node)
	if err != nil {
		return err
	}
	for _, write := range []func() error{
		func() error { return writeKubeconfigs(pki) },
		func() error { return writeContainerdConfig(node) },
		func() error { return writeFirstNetworkConfig(node) },
		func() error { return writeKubeletConfig(node, pki) },
	} {
		if err := write(); err != nil {
			return err
		}
	}

	children := newSupervisor(logDir)
	defer children.Stop()
	children.Start(containerd())
	children.Start(etcd())
	children.Start(apiserver(node, pki))

	deadline, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if err := waitForContainerd(deadline); err != nil {
		return err
	}
	say("Containerd is now running")
	if err := importArchives(deadline); err != nil {
		return err
	}
	children.Start(kubelet(node))
	say("Running kube-apiserver")
	if err := waitForAPI(deadline, pki); err != nil {
		return err
	}
	// First of all the addresses of services: a pod that starts without them,
	// as those of an earlier start do at once, would fail and be held back.
	children.Start(kubeProxy(node))
	children.Start(controllerManager(node, pki))
	children.Start(scheduler(node))
	if err := writeAdminKubeconfig(pki); err != nil {
		return err
	}
	if err := admitAgents(ctx, node, pki); err != nil {
		return err
	}
	say("k3s is up and running")

	keepManifestsApplied(ctx)
	say("stopping")
	return nil
}

// Node is what the rest needs to know of the machine that it runs on.
type Node struct {
	Options
	Name string
	IP   net.IP
}

func describeNode(options Options) (Node, error) {
	name, err := os.Hostname()
	if err != nil {
		return Node{}, err
	}
	ip, err := addressOf(name)
	if err != nil {
		return Node{}, err
	}
	return Node{Options: options, Name: strings.ToLower(name), IP: ip}, nil
}

// addressOf is the address that Docker wrote for the container's own name into
// /etc/hosts: on a node with several networks, that of the cluster's.
func addressOf(name string) (net.IP, error) {
	addresses, err := net.LookupIP(name)
	if err != nil {
		return nil, fmt.Errorf("own address: %w", err)
	}
	for _, address := range addresses {
		if v4 := address.To4(); v4 != nil && !v4.IsLoopback() {
			return v4, nil
		}
	}
	return nil, fmt.Errorf("own address: %s has no IPv4 address but %v", name, addresses)
}

// prepare makes the folders, and the mounts shared, which the kubelet needs for
// volumes that a pod mounts for others.
func prepare() error {
	for _, dir := range []string{tlsDir, etcDir, logDir, certsDir, manifestsDir, etcdDir, runDir, storageDir, "/etc/cni/net.d", "/etc/rancher/k3s"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	return nil
}

// say prints a line of the form that k3d reads the container's log for.
func say(format string, arguments ...any) {
	fmt.Printf("%s level=info msg=%q\n", time.Now().UTC().Format(time.RFC3339), fmt.Sprintf(format, arguments...))
}

// writeFile replaces a file as a whole, so that nobody reads half of it.
func writeFile(path string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	draft := path + ".new"
	if err := os.WriteFile(draft, content, mode); err != nil {
		return err
	}
	return os.Rename(draft, path)
}
