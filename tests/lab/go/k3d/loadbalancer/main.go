// Command loadbalancer is what the lab runs where k3d runs its proxy image: it
// passes TCP connections on to the nodes that /etc/confd/values.yaml names for
// each port.
//
// k3d writes that file before the container starts, and again when nodes come
// and go; each time it waits for the log line "start worker processes". Names
// are looked up for every connection, so a node that comes back with another
// address is found.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	configFile = "/etc/confd/values.yaml"
	readyLine  = "start worker processes"
	// Looking at the file once in a while is enough: k3d waits five seconds.
	lookAgain      = 500 * time.Millisecond
	connectTimeout = 2 * time.Second
	apiPort        = "6443.tcp"
	joinPort       = "9345.tcp"
)

// config is k3d's: "6443.tcp" to the names of nodes.
type config struct {
	Ports map[string][]string `yaml:"ports"`
}

func main() {
	log.SetFlags(log.LstdFlags | log.LUTC)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	proxy := proxy{listeners: map[string]*listener{}}
	var seen [sha256.Size]byte
	for {
		if content, err := os.ReadFile(configFile); err != nil {
			if !errors.Is(err, os.ErrNotExist) {
				log.Print(err)
			}
		} else if sum := sha256.Sum256(content); sum != seen {
			seen = sum
			if err := proxy.apply(content); err != nil {
				log.Printf("%s: %v", configFile, err)
			} else {
				log.Print(readyLine)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookAgain):
		}
	}
}

type proxy struct{ listeners map[string]*listener }

// apply opens the ports that are new, closes those that are gone, and gives the
// others their new targets without touching their connections.
func (p *proxy) apply(content []byte) error {
	var wanted config
	if err := yaml.Unmarshal(content, &wanted); err != nil {
		return err
	}
	// k3s admits agents on the API server's port, the lab's nodes on one of their own.
	if servers, exists := wanted.Ports[apiPort]; exists {
		wanted.Ports[joinPort] = servers
	}
	for entry, open := range p.listeners {
		if _, keep := wanted.Ports[entry]; !keep {
			open.socket.Close()
			delete(p.listeners, entry)
		}
	}
	for entry, targets := range wanted.Ports {
		port, protocol, _ := strings.Cut(entry, ".")
		if protocol != "tcp" {
			return fmt.Errorf("port %s: only tcp is passed on", entry)
		}
		if open, exists := p.listeners[entry]; exists {
			open.targets.Store(&targets)
			continue
		}
		socket, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		open := &listener{port: port, socket: socket}
		open.targets.Store(&targets)
		p.listeners[entry] = open
		go open.serve()
	}
	return nil
}

type listener struct {
	port    string
	socket  net.Listener
	targets atomic.Pointer[[]string]
	next    atomic.Uint64
}

func (l *listener) serve() {
	for {
		client, err := l.socket.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			log.Printf("port %s: %v", l.port, err)
			continue
		}
		go l.pass(client.(*net.TCPConn))
	}
}

// pass tries the targets in turn, starting with another one each time.
func (l *listener) pass(client *net.TCPConn) {
	defer client.Close()
	targets := *l.targets.Load()
	first := l.next.Add(1)
	for i := range targets {
		target := targets[(first+uint64(i))%uint64(len(targets))]
		server, err := net.DialTimeout("tcp", net.JoinHostPort(target, l.port), connectTimeout)
		if err != nil {
			log.Printf("port %s: %v", l.port, err)
			continue
		}
		defer server.Close()
		exchange(client, server.(*net.TCPConn))
		return
	}
}

// exchange copies both ways, passing on each end's half-close.
func exchange(a, b *net.TCPConn) {
	var both sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{a, b}, {b, a}} {
		both.Go(func() {
			_, _ = io.Copy(way[1], way[0])
			_ = way[1].CloseWrite()
		})
	}
	both.Wait()
}
