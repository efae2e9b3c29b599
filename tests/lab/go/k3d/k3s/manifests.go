package main

import (
	"context"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// unpackManifests puts the packaged manifests where k3s has them. One that is
// there already stays: k3d has written the cluster's host names into it.
func unpackManifests(node Node) error {
	dns, err := nthAddress(node.ServiceCIDR, 10)
	if err != nil {
		return err
	}
	values := strings.NewReplacer("%{CLUSTER_DNS}%", dns.String())
	packaged, err := filepath.Glob(filepath.Join(packagedManifests, "*.yaml"))
	if err != nil {
		return err
	}
	for _, path := range packaged {
		file := filepath.Base(path)
		target := filepath.Join(manifestsDir, file)
		if _, err := os.Stat(target); err == nil || node.disables(strings.TrimSuffix(file, ".yaml")) {
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := writeFile(target, []byte(values.Replace(string(content))), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// keepManifestsApplied applies every manifest, and again each one that changes,
// until the context ends. One that fails is tried again at the next look.
func keepManifestsApplied(ctx context.Context) {
	applied := map[string][sha256.Size]byte{}
	for {
		for _, path := range manifests() {
			content, err := os.ReadFile(path)
			if err != nil {
				continue
			}
			sum := sha256.Sum256(content)
			if applied[path] == sum {
				continue
			}
			output, err := exec.CommandContext(ctx, "kubectl", "apply", "--filename", path).CombinedOutput()
			if err != nil {
				if ctx.Err() == nil {
					say("manifest %s: %v: %s", path, err, strings.TrimSpace(string(output)))
				}
				continue
			}
			applied[path] = sum
			if filepath.Base(path) == "coredns.yaml" {
				say("Cluster dns configmap has been set successfully")
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

func manifests() []string {
	paths, _ := filepath.Glob(filepath.Join(manifestsDir, "*.yaml"))
	return paths
}
