package main

import (
	"archive/tar"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// lookAgain is the pause between two looks at something that can't be watched.
const lookAgain = 100 * time.Millisecond

// waitFor looks until the thing is so, and says at the end what it last was.
func waitFor(ctx context.Context, what string, look func() error) error {
	for {
		err := look()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w (%v)", what, ctx.Err(), err)
		case <-time.After(lookAgain):
		}
	}
}

func waitForContainerd(ctx context.Context) error {
	return waitFor(ctx, "containerd", func() error {
		connection, err := net.Dial("unix", socket)
		if err != nil {
			return err
		}
		connection.Close()
		if output, err := exec.CommandContext(ctx, "ctr", "version").CombinedOutput(); err != nil {
			return fmt.Errorf("ctr version: %s", strings.TrimSpace(string(output)))
		}
		return nil
	})
}

func waitForAPI(ctx context.Context, pki PKI) error {
	authority, err := os.ReadFile(pki.CA.Certificate)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	admin, err := tls.LoadX509KeyPair(pki.Admin.Certificate, pki.Admin.Key)
	if err != nil {
		return err
	}
	client := &http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{admin}}},
	}
	defer client.CloseIdleConnections()
	return waitFor(ctx, "the API server", func() error {
		response, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/readyz", apiPort))
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("/readyz: %s: %s", response.Status, body)
		}
		return nil
	})
}

// importArchives gives containerd the images that the node brings along, under
// names that say so: docker.io/k3s/NAME:packaged, NAME being the archive's.
func importArchives(ctx context.Context) error {
	archives, err := filepath.Glob(filepath.Join(packagedArchives, "*.tar"))
	if err != nil {
		return err
	}
	present, err := ctr(ctx, "images", "ls", "-q")
	if err != nil {
		return err
	}
	for _, archive := range archives {
		name := "docker.io/k3s/" + strings.TrimSuffix(filepath.Base(archive), ".tar") + ":packaged"
		if containsLine(present, name) {
			continue
		}
		saved, err := nameInArchive(archive)
		if err != nil {
			return fmt.Errorf("%s: %w", archive, err)
		}
		if _, err := ctr(ctx, "images", "import", archive); err != nil {
			return err
		}
		if _, err := ctr(ctx, "images", "tag", "--force", saved, name); err != nil {
			return err
		}
		if _, err := ctr(ctx, "images", "rm", saved); err != nil {
			return err
		}
	}
	return nil
}

// nameInArchive is the name under which `docker save` stored the image, as
// containerd writes it.
func nameInArchive(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	for reader := tar.NewReader(file); ; {
		header, err := reader.Next()
		if err != nil {
			return "", fmt.Errorf("no manifest.json: %w", err)
		}
		if header.Name != "manifest.json" {
			continue
		}
		var images []struct{ RepoTags []string }
		if err := json.NewDecoder(reader).Decode(&images); err != nil {
			return "", err
		}
		if len(images) != 1 || len(images[0].RepoTags) == 0 {
			return "", fmt.Errorf("want one image with a name, got %v", images)
		}
		return "docker.io/" + images[0].RepoTags[0], nil
	}
}

func ctr(ctx context.Context, arguments ...string) (string, error) {
	output, err := exec.CommandContext(ctx, "ctr", arguments...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ctr %s: %w: %s", strings.Join(arguments, " "), err, strings.TrimSpace(string(output)))
	}
	return string(output), nil
}

func containsLine(text, line string) bool {
	for _, candidate := range strings.Split(text, "\n") {
		if candidate == line {
			return true
		}
	}
	return false
}
