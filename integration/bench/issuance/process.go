package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// patience bounds every wait for a program.
const patience = time.Minute

// A process is one issuer's, and what is known of it.
type process struct {
	cmd  *exec.Cmd
	done chan error
	base string
	pool *x509.CertPool
}

func (p *process) url() string           { return p.base }
func (p *process) roots() *x509.CertPool { return p.pool }
func (p *process) pid() int              { return p.cmd.Process.Pid }

// start starts a program in a directory, with its output in a file there.
func (p *process) start(dir, program string, args ...string) error {
	out, err := os.Create(dir + "/output")
	if err != nil {
		return err
	}
	defer out.Close()
	p.cmd = exec.Command(program, args...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.done = make(chan error, 1)
	go func() { p.done <- p.cmd.Wait() }()
	return nil
}

// ready waits until a URL answers with 200.
func (p *process) ready(ctx context.Context, c *http.Client, url, dir string) error {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-p.done:
			said, _ := os.ReadFile(dir + "/output")
			p.done <- err
			return fmt.Errorf("it ended at its start: %w: %.2000s", err, said)
		default:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := c.Do(req)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
	}
	return fmt.Errorf("it was not ready in %v", patience)
}

// stop ends the program and waits for it.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
		return p.cmd.Process.Kill()
	}
}

// freePort returns a loopback port that was free a moment ago.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}
