package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// PKI names the files of the cluster's certificates. The authorities and the
// service account key are made once, since kubeconfigs and tokens rest on them;
// the rest is issued at each start, with the addresses of that start.
type PKI struct {
	CA, FrontProxyCA                                     authority
	ServiceAccountKey                                    string
	APIServer, APIServerKubelet, FrontProxy              pair
	Admin, ControllerManager, Scheduler, Kubelet, Kproxy pair
	KubeletServing                                       pair
}

// pair is a certificate and its key, as paths.
type pair struct{ Certificate, Key string }

type authority struct {
	pair
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

const validFor = 10 * 365 * 24 * time.Hour

func issueCertificates(node Node) (PKI, error) {
	var pki PKI
	var err error
	if pki.CA, err = loadOrCreateAuthority("server-ca", "k3s-server-ca"); err != nil {
		return pki, err
	}
	if pki.FrontProxyCA, err = loadOrCreateAuthority("request-header-ca", "k3s-request-header-ca"); err != nil {
		return pki, err
	}
	pki.ServiceAccountKey = filepath.Join(tlsDir, "service.key")
	if _, err := loadOrCreateKey(pki.ServiceAccountKey); err != nil {
		return pki, err
	}

	serviceIP, err := nthAddress(node.ServiceCIDR, 1)
	if err != nil {
		return pki, err
	}
	apiNames := append([]string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		"localhost", "127.0.0.1", "0.0.0.0", serviceIP.String(), node.Name, node.IP.String(),
	}, node.TLSNames.commas()...)

	for _, leaf := range []struct {
		into   *pair
		by     authority
		file   string
		user   string
		groups []string
		names  []string
	}{
		{&pki.APIServer, pki.CA, "serving-kube-apiserver", "kube-apiserver", nil, apiNames},
		{&pki.KubeletServing, pki.CA, "serving-kubelet", "system:node:" + node.Name, []string{"system:nodes"}, []string{node.Name, node.IP.String(), "localhost", "127.0.0.1"}},
		{&pki.APIServerKubelet, pki.CA, "client-kube-apiserver", "kube-apiserver", []string{"system:masters"}, nil},
		{&pki.FrontProxy, pki.FrontProxyCA, "client-auth-proxy", "system:auth-proxy", nil, nil},
		{&pki.Admin, pki.CA, "client-admin", "system:admin", []string{"system:masters"}, nil},
		{&pki.ControllerManager, pki.CA, "client-controller", "system:kube-controller-manager", nil, nil},
		{&pki.Scheduler, pki.CA, "client-scheduler", "system:kube-scheduler", nil, nil},
		{&pki.Kubelet, pki.CA, "client-kubelet", "system:node:" + node.Name, []string{"system:nodes"}, nil},
		{&pki.Kproxy, pki.CA, "client-kube-proxy", "system:kube-proxy", nil, nil},
	} {
		issued, err := leaf.by.issue(leaf.file, pkix.Name{CommonName: leaf.user, Organization: leaf.groups}, leaf.names)
		if err != nil {
			return pki, fmt.Errorf("certificate %s: %w", leaf.file, err)
		}
		*leaf.into = issued
	}
	return pki, nil
}

func loadOrCreateAuthority(file, name string) (authority, error) {
	paths := pairIn(tlsDir, file)
	key, err := loadOrCreateKey(paths.Key)
	if err != nil {
		return authority{}, err
	}
	if _, err := os.Stat(paths.Certificate); os.IsNotExist(err) {
		now := time.Now()
		template := &x509.Certificate{
			SerialNumber:          big.NewInt(now.UnixNano()),
			Subject:               pkix.Name{CommonName: fmt.Sprintf("%s@%d", name, now.Unix())},
			NotBefore:             now.Add(-time.Hour),
			NotAfter:              now.Add(validFor),
			IsCA:                  true,
			BasicConstraintsValid: true,
			KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		if err != nil {
			return authority{}, err
		}
		if err := writePEM(paths.Certificate, "CERTIFICATE", der, 0o644); err != nil {
			return authority{}, err
		}
	}
	der, err := readPEM(paths.Certificate)
	if err != nil {
		return authority{}, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return authority{}, fmt.Errorf("%s: %w", paths.Certificate, err)
	}
	return authority{paths, certificate, key}, nil
}

func (a authority) issue(file string, subject pkix.Name, names []string) (pair, error) {
	paths := pairIn(tlsDir, file)
	key, err := loadOrCreateKey(paths.Key)
	if err != nil {
		return pair{}, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      subject,
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(validFor),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if len(names) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		return pair{}, err
	}
	return paths, writePEM(paths.Certificate, "CERTIFICATE", der, 0o644)
}

func pairIn(dir, file string) pair {
	return pair{filepath.Join(dir, file+".crt"), filepath.Join(dir, file+".key")}
}

func loadOrCreateKey(path string) (*ecdsa.PrivateKey, error) {
	if _, err := os.Stat(path); os.IsNotExist(err) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return nil, err
		}
		return key, writePEM(path, "EC PRIVATE KEY", der, 0o600)
	}
	der, err := readPEM(path)
	if err != nil {
		return nil, err
	}
	return x509.ParseECPrivateKey(der)
}

func writePEM(path, kind string, der []byte, mode os.FileMode) error {
	return writeFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}

func readPEM(path string) ([]byte, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM block", path)
	}
	return block.Bytes, nil
}

// nthAddress is the n-th address of a network: the API server's service takes
// the first, cluster DNS by custom the tenth.
func nthAddress(cidr string, n byte) (net.IP, error) {
	_, network, err := net.ParseCIDR(cidr)
	if err != nil {
		return nil, err
	}
	ip := network.IP.To4()
	if ip == nil {
		return nil, fmt.Errorf("%s: only IPv4 networks", cidr)
	}
	return net.IPv4(ip[0], ip[1], ip[2], ip[3]+n), nil
}
