// Command pause holds the namespaces of a pod: it waits until it is told to end,
// and as the pod's first process takes leave of the children of others.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		for {
			if gone, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); gone <= 0 || err != nil {
				break
			}
		}
	}
}
