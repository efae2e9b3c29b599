package main

import (
	"runtime/debug"
	"sync/atomic"
	_ "unsafe" // for go:linkname

	_ "k8s.io/component-base/version"
)

// Kubernetes learns its version from the linker's flags in its own build; built
// as a module it calls itself v0.0.0, which charts with a kubeVersion refuse.
// The program knows what it was built from, so it says that.
//
//go:linkname gitVersion k8s.io/component-base/version.dynamicGitVersion
var gitVersion atomic.Value

func init() {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return
	}
	for _, module := range build.Deps {
		if module.Path == "k8s.io/kubernetes" {
			gitVersion.Store(module.Version)
		}
	}
}
