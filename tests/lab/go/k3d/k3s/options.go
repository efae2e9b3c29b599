package main

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

// Options are those of k3s's own that k3d, or its config file, gives.
type Options struct {
	// Agent: a node that joins a server, and has no control plane.
	Agent             bool
	TLSNames          list
	Disable           list
	NodeLabels        list
	NodeTaints        list
	ClusterCIDR       string
	ServiceCIDR       string
	NoDefaultRegistry bool
	APIServer         list
	ControllerManager list
	Scheduler         list
	Kubelet           list
	KubeProxy         list
}

// parse reads `server [OPTION …]` or `agent [OPTION …]`. An option that it doesn't know is an error:
// a cluster that quietly lacks what its config asks for would be worse.
func parse(arguments []string) (Options, error) {
	if len(arguments) == 0 || (arguments[0] != "server" && arguments[0] != "agent") {
		return Options{}, fmt.Errorf("usage: k3s server|agent [OPTION ...], got %q", arguments)
	}
	options := Options{Agent: arguments[0] == "agent"}
	flags := flag.NewFlagSet("k3s "+arguments[0], flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Var(&options.TLSNames, "tls-san", "a further name of the API server")
	flags.Var(&options.Disable, "disable", "a packaged component to leave out")
	flags.Var(&options.NodeLabels, "node-label", "a label of the node")
	flags.Var(&options.NodeTaints, "node-taint", "a taint of the node")
	flags.StringVar(&options.ClusterCIDR, "cluster-cidr", "10.42.0.0/16", "addresses of pods")
	flags.StringVar(&options.ServiceCIDR, "service-cidr", "10.43.0.0/16", "addresses of services")
	flags.BoolVar(&options.NoDefaultRegistry, "disable-default-registry-endpoint", false, "never ask a mirrored registry itself")
	flags.Var(&options.APIServer, "kube-apiserver-arg", "NAME=VALUE for kube-apiserver")
	flags.Var(&options.ControllerManager, "kube-controller-manager-arg", "NAME=VALUE for kube-controller-manager")
	flags.Var(&options.Scheduler, "kube-scheduler-arg", "NAME=VALUE for kube-scheduler")
	flags.Var(&options.Kubelet, "kubelet-arg", "NAME=VALUE for the kubelet")
	flags.Var(&options.KubeProxy, "kube-proxy-arg", "NAME=VALUE for kube-proxy")
	flags.Bool("cluster-init", false, "accepted: there is always an etcd of one member")
	flags.String("token", "", "accepted: K3S_TOKEN is what agents join with")
	if err := flags.Parse(arguments[1:]); err != nil {
		return Options{}, err
	}
	if rest := flags.Args(); len(rest) > 0 {
		return Options{}, fmt.Errorf("unexpected arguments %q", rest)
	}
	return options, nil
}

// disables tells whether a packaged component was switched off.
func (o Options) disables(component string) bool {
	for _, name := range o.Disable {
		if name == component {
			return true
		}
	}
	return false
}

// list is an option that may be given several times, or once with commas.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

// commas splits the values that hold several.
func (l list) commas() []string {
	var values []string
	for _, value := range l {
		for _, part := range strings.Split(value, ",") {
			if part = strings.TrimSpace(part); part != "" {
				values = append(values, part)
			}
		}
	}
	return values
}

// flags turns the NAME=VALUE form of k3s into the --NAME=VALUE of a component.
func (l list) flags() []string {
	var values []string
	for _, value := range l {
		values = append(values, "--"+strings.TrimLeft(value, "-"))
	}
	return values
}
