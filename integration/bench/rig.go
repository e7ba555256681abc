package main

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"text/template"

	"github.com/anteroom-iomt/anteroom/integration/bench/build"
)

// Names that certificates carry. The host is localhost because wrk sends no
// other name than the one it connects to.
const (
	frontHost   = "localhost"
	backendName = "fhir.bench.example"
	fhirPath    = "/fhir/Observation"
	dicomPath   = "/dicom-web/studies"
)

//go:embed peers/*.tmpl peers/opa* load/*
var files embed.FS

// A rig is what all measurements share: a scratch directory, certificates, the
// backend, the load generator, and which CPU is whose.
type rig struct {
	opt        options
	dir        string // scratch; removed by close
	root       string // the module's root
	pki        *pki
	backend    *backend
	origin     *process
	originPort int
	wrk        string // path of the load generator
	wrkVersion string
	preload    string   // library that gives wrk a client certificate
	body       string   // file with the request's body
	script     string   // wrk's script
	env        []string // of the targets, besides their own
	out        io.Writer
}

// serve starts a target's program.
func (r *rig) serve(name, dir string, env []string, argv ...string) (*process, error) {
	return startPinned(r.opt.serverCPU, name, dir, slices.Concat(r.env, env), argv...)
}

// newRig sets everything up but the targets. The caller closes it.
func newRig(ctx context.Context, opt options, out io.Writer) (_ *rig, err error) {
	for program, pkg := range map[string]string{
		"nginx": "nginx", "wrk": "wrk", "gcc": "gcc", "taskset": "util-linux", "go": "golang",
	} {
		if _, err := find(program); err != nil {
			return nil, fmt.Errorf("%s is needed (Debian package %s)", program, pkg)
		}
	}
	r := &rig{opt: opt, out: out}
	if r.root, err = build.Root(ctx); err != nil {
		return nil, err
	}
	if r.dir, err = os.MkdirTemp("", "anteroom-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if r.pki, err = newPKI(filepath.Join(r.dir, "pki")); err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	if err = r.buildLoad(ctx); err != nil {
		return nil, err
	}
	if r.backend, err = startBackend(ctx, r); err != nil {
		return nil, fmt.Errorf("start the backend: %w", err)
	}
	if r.origin, r.originPort, err = startOrigin(ctx, r); err != nil {
		return nil, fmt.Errorf("start the origin: %w", err)
	}
	return r, nil
}

// close ends the backends and removes the scratch directory.
func (r *rig) close() {
	if r.backend != nil {
		r.backend.proc.stop()
	}
	if r.origin != nil {
		r.origin.stop()
	}
	if r.opt.keep {
		r.progress("kept %s", r.dir)
		return
	}
	if err := os.RemoveAll(r.dir); err != nil {
		r.progress("remove the scratch directory: %v", err)
	}
}

func (r *rig) progress(format string, args ...any) {
	fmt.Fprintf(r.out, format+"\n", args...)
}

// scratch makes and returns a directory of its own for a target.
func (r *rig) scratch(name string) (string, error) {
	dir := filepath.Join(r.dir, name)
	return dir, os.MkdirAll(dir, 0o700)
}

// render fills the named template of the folder peers and writes it to path.
func (r *rig) render(name, path string, data any) error {
	t, err := template.New(name).Option("missingkey=error").ParseFS(files, "peers/"+name)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o600)
}

// front is what the configuration templates of all peers are filled with.
type front struct {
	Dir                              string
	Host                             string
	Port                             int
	ServerCert, ServerKey, ServerPEM string
	DeviceCA                         string
	BackendPort, OriginPort          int
	BackendName, BackendCA           string
	OPAPort                          int // 0 for none
}

// front returns a fresh port and the paths a peer's configuration names.
func (r *rig) front(dir string) (front, error) {
	port, err := freePort()
	return front{
		Dir: dir, Host: frontHost, Port: port,
		ServerCert: r.pki.server.cert, ServerKey: r.pki.server.key, ServerPEM: r.pki.server.both,
		DeviceCA: r.pki.deviceCA, BackendPort: r.backend.port, OriginPort: r.originPort, BackendName: backendName, BackendCA: r.pki.backendCA,
	}, err
}

// freePort returns a TCP port of 127.0.0.1 that was free a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// find looks a program up in PATH and in the folders where Debian keeps
// daemons, which are not in an ordinary user's PATH.
func find(program string) (string, error) {
	if p, err := exec.LookPath(program); err == nil {
		return filepath.Abs(p)
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: %w", program, exec.ErrNotFound)
}
