package main

import (
	"fmt"
	"time"
)

// Command is one child of the supervisor. Grace is how long it may take to end.
type Command struct {
	Name      string
	Path      string
	Arguments []string
	Grace     time.Duration
}

func containerd() Command {
	return Command{Name: "containerd", Path: "containerd", Arguments: []string{"--config", containerdConfig}, Grace: 3 * time.Second}
}

// etcd keeps its data for a cluster that can be made again in seconds, so it
// needn't wait for the disk. It listens inside the node only.
func etcd() Command {
	return component("etcd", nil,
		"--name=default",
		"--data-dir="+etcdDir,
		"--listen-client-urls=http://127.0.0.1:2379",
		"--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380",
		"--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=default=http://127.0.0.1:2380",
		"--unsafe-no-fsync",
		"--log-level=warn",
	)
}

func apiserver(node Node, pki PKI) Command {
	return component("kube-apiserver", node.APIServer,
		"--advertise-address="+node.IP.String(),
		fmt.Sprintf("--secure-port=%d", apiPort),
		"--etcd-servers=http://127.0.0.1:2379",
		"--service-cluster-ip-range="+node.ServiceCIDR,
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--client-ca-file="+pki.CA.Certificate,
		"--tls-cert-file="+pki.APIServer.Certificate,
		"--tls-private-key-file="+pki.APIServer.Key,
		"--kubelet-certificate-authority="+pki.CA.Certificate,
		"--kubelet-client-certificate="+pki.APIServerKubelet.Certificate,
		"--kubelet-client-key="+pki.APIServerKubelet.Key,
		"--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+pki.ServiceAccountKey,
		"--service-account-signing-key-file="+pki.ServiceAccountKey,
		"--requestheader-client-ca-file="+pki.FrontProxyCA.Certificate,
		"--requestheader-allowed-names=system:auth-proxy",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+pki.FrontProxy.Certificate,
		"--proxy-client-key-file="+pki.FrontProxy.Key,
	)
}

func controllerManager(node Node, pki PKI) Command {
	return component("kube-controller-manager", node.ControllerManager,
		"--kubeconfig="+kubeconfigOf("controller"),
		"--authentication-kubeconfig="+kubeconfigOf("controller"),
		"--authorization-kubeconfig="+kubeconfigOf("controller"),
		"--bind-address=127.0.0.1",
		"--leader-elect=false",
		"--use-service-account-credentials",
		"--service-account-private-key-file="+pki.ServiceAccountKey,
		"--root-ca-file="+pki.CA.Certificate,
		"--cluster-signing-cert-file="+pki.CA.Certificate,
		"--cluster-signing-key-file="+pki.CA.Key,
		"--allocate-node-cidrs",
		"--cluster-cidr="+node.ClusterCIDR,
		"--service-cluster-ip-range="+node.ServiceCIDR,
	)
}

func scheduler(node Node) Command {
	return component("kube-scheduler", node.Scheduler,
		"--kubeconfig="+kubeconfigOf("scheduler"),
		"--authentication-kubeconfig="+kubeconfigOf("scheduler"),
		"--authorization-kubeconfig="+kubeconfigOf("scheduler"),
		"--bind-address=127.0.0.1",
		"--leader-elect=false",
	)
}

func kubelet(node Node) Command {
	arguments := []string{
		"--config=" + kubeletConfig,
		"--kubeconfig=" + kubeconfigOf("kubelet"),
		"--hostname-override=" + node.Name,
		"--node-ip=" + node.IP.String(),
	}
	if labels := node.NodeLabels.String(); labels != "" {
		arguments = append(arguments, "--node-labels="+labels)
	}
	if taints := node.NodeTaints.String(); taints != "" {
		arguments = append(arguments, "--register-with-taints="+taints)
	}
	return component("kubelet", node.Kubelet, arguments...)
}

// kubeProxy leaves the conntrack limits alone: they belong to the host.
func kubeProxy(node Node) Command {
	return component("kube-proxy", node.KubeProxy,
		"--kubeconfig="+kubeconfigOf("kube-proxy"),
		"--hostname-override="+node.Name,
		"--cluster-cidr="+node.ClusterCIDR,
		"--proxy-mode=iptables",
		"--healthz-bind-address=127.0.0.1:10256",
		"--conntrack-max-per-core=0",
		"--conntrack-tcp-timeout-established=0s",
		"--conntrack-tcp-timeout-close-wait=0s",
	)
}

// component runs one of the names that the `kubernetes` binary goes by; what the
// cluster's config asks for comes last, so that it wins.
func component(name string, wanted list, arguments ...string) Command {
	return Command{Name: name, Path: name, Arguments: append(arguments, wanted.flags()...), Grace: 3 * time.Second}
}
