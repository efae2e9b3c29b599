package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Supervisor keeps its children running until it is stopped, and then ends them
// in the reverse order of their start, so that none outlives what it talks to.
type Supervisor struct {
	logs     string
	stopping chan struct{}
	mu       sync.Mutex
	children []*child
}

type child struct {
	Command
	done    chan struct{}
	mu      sync.Mutex
	process *os.Process
}

func newSupervisor(logs string) *Supervisor {
	return &Supervisor{logs: logs, stopping: make(chan struct{})}
}

func (s *Supervisor) Start(command Command) {
	started := &child{Command: command, done: make(chan struct{})}
	s.mu.Lock()
	s.children = append(s.children, started)
	s.mu.Unlock()
	go s.keepRunning(started)
}

// keepRunning starts a child again when it ends by itself, at first at once, and
// less and less often while it keeps failing.
func (s *Supervisor) keepRunning(c *child) {
	defer close(c.done)
	pause := time.Second
	for {
		began := time.Now()
		err := s.run(c)
		select {
		case <-s.stopping:
			return
		default:
		}
		if time.Since(began) > time.Minute {
			pause = time.Second
		}
		say("%s ended (%v), starting it again in %s; its last lines:\n%s", c.Name, err, pause, lastLines(s.logOf(c), 10))
		select {
		case <-s.stopping:
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, 30*time.Second)
	}
}

func (s *Supervisor) logOf(c *child) string { return filepath.Join(s.logs, c.Name+".log") }

func (s *Supervisor) run(c *child) error {
	log := s.logOf(c)
	if err := os.Rename(log, log+".1"); err != nil && !os.IsNotExist(err) {
		return err
	}
	output, err := os.Create(log)
	if err != nil {
		return err
	}
	defer output.Close()
	command := exec.Command(c.Path, c.Arguments...)
	command.Stdout, command.Stderr = output, output
	// A group of its own: a signal to the container's first process is ours to
	// pass on, in our order.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.mu.Lock()
	select {
	case <-s.stopping:
		c.mu.Unlock()
		return nil
	default:
	}
	err = command.Start()
	if err == nil {
		c.process = command.Process
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return command.Wait()
}

// Stop ends all children and returns when the last one is gone.
func (s *Supervisor) Stop() {
	close(s.stopping)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.children) - 1; i >= 0; i-- {
		s.children[i].end()
	}
}

func (c *child) end() {
	c.signal(syscall.SIGTERM)
	select {
	case <-c.done:
		return
	case <-time.After(c.Grace):
	}
	c.signal(syscall.SIGKILL)
	<-c.done
}

func (c *child) signal(signal os.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process != nil {
		// It may be gone by now, which is what was wanted.
		_ = c.process.Signal(signal)
	}
}

func lastLines(path string, count int) string {
	file, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	var lines []string
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		lines = append(lines, scanner.Text())
		if len(lines) > count {
			lines = lines[1:]
		}
	}
	return strings.Join(lines, "\n")
}
