// Package integration holds what is true of Anteroom as a whole: the tests in
// the folders below it run the real program among real peers, those in this
// one hold the house to its plan.
package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/anteroom-iomt/anteroom"

// floors says on which floor each room lies. A room imports rooms on lower
// floors only, so arrows point one way (docs/architecture.md). Folders below a
// room belong to it unless they are named themselves; below pkg/protocol each
// folder is a room of its own, an adapter.
var floors = map[string]int{
	"certs":       0,
	"policies":    0,
	"pkg/jws":     0,
	"pkg/durable": 0, // files that are whole after a crash: nothing of ours

	"pkg/config":     1,
	"pkg/http1":      1, // syntax, and
	"pkg/wire":       1, // sockets: nothing of ours
	"pkg/yield":      1, // Go's scheduler and the kernel's: nothing of ours
	"pkg/backup":     1, // the form of an archive: nothing of ours
	"pkg/visitor":    1, // how often strangers may ask
	"pkg/agent":      2, // the companion, a program of its own
	"pkg/store":      2,
	"pkg/device":     3,
	"pkg/breakglass": 4,
	"pkg/finding":    4,
	"pkg/ca":         4, // takes the grammar of ids from the registry, nothing else

	"pkg/protocol": 5, // the contract; adapters are on floor adapterFloor

	"pkg/policy":    6,
	"pkg/audit":     6,
	"pkg/upstream":  6,
	"pkg/behaviour": 6,
	"pkg/telemetry": 7,
	"pkg/workbench": 8, // looks back at what was decided
	"pkg/enrol":     8, // every way to a certificate

	"pkg/revocation": 8, // what others are told of their end

	"pkg/edge":    9,
	"pkg/admin":   10,
	"pkg/gateway": 11,
	"pkg/demo":    12,
	"pkg/cli":     13,
	"cmd":         14,
	"docker":      15,
	"integration": 15,
}

const (
	adapterFloor = 8
	adapters     = "pkg/protocol/"
)

// owners says which rooms alone may import a library: what it does is their
// matter, and replacing it is a change in one place. Tests are not bound by it.
var owners = map[string][]string{
	"go.etcd.io/bbolt":                    {"pkg/store"},
	"github.com/smallstep/certificates":   {"pkg/ca"},
	"github.com/open-policy-agent/opa":    {"pkg/policy"},
	"github.com/hashicorp/go-memdb":       {"pkg/device"},
	"github.com/transparency-dev/tessera": {"pkg/audit"},
	"github.com/caddyserver/certmagic":    {"pkg/edge", "pkg/ca"},
	"github.com/spf13/cobra":              {"pkg/cli"},
	"github.com/prometheus/client_golang": {"pkg/telemetry"},
	"github.com/pires/go-proxyproto":      {"pkg/edge"},
	"software.sslmate.com/src/go-pkcs12":  {"pkg/ca"},
	"filippo.io/age":                      {"pkg/backup"},
	"unsafe":                              {"pkg/yield"},
	"os/exec":                             {"integration"},
	"math/rand":                           {"pkg/upstream", "pkg/demo", "pkg/agent", "integration"},
	"github.com/transparency-dev/merkle":  {"pkg/audit"},
	"golang.org/x/mod/sumdb/note":         {"pkg/audit"},
	"github.com/fxamacker/cbor/v2":        {"pkg/enrol"},
	"github.com/google/go-tpm":            {"pkg/enrol", "pkg/agent"},
	"golang.org/x/net/http2/hpack":        {adapters + "httpgw"},
}

// unverified are the files that may connect without a look at the certificate. A
// tls-alpn-01 challenge is answered with one that chains to nothing (RFC 8737 §3),
// and probe.go sends nothing. The agent asks for the gateway's root before it can
// check anything, and takes the one whose fingerprint it was given.
var unverified = []string{"pkg/edge/probe.go", "pkg/agent/identity/root.go"}

// A listed package is what `go list` says of it.
type listed struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Deps       []string
	Module     *struct{ Path string }
}

// list returns the module's packages, without their tests.
func list(t *testing.T) []listed {
	t.Helper()
	// With its profile, cmd/anteroom has packages of its own of the same names.
	cmd := exec.CommandContext(t.Context(), "go", "list", "-pgo=off", "-json=ImportPath,Dir,GoFiles,Imports,Deps,Module", module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, stderr.Bytes())
	}
	var ps []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); err == io.EOF {
			return ps
		} else if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
}

// short cuts the module's path off; it returns "" for other modules' packages.
func short(importPath string) string {
	s, ok := strings.CutPrefix(importPath, module+"/")
	if !ok {
		return ""
	}
	return s
}

// room returns the room a package of ours lies in and its floor.
func room(pkg string) (name string, floor int, ok bool) {
	if rest, ok := strings.CutPrefix(pkg, adapters); ok {
		first, _, _ := strings.Cut(rest, "/")
		return adapters + first, adapterFloor, true
	}
	for p := pkg; p != "."; p = path.Dir(p) {
		if f, ok := floors[p]; ok {
			return p, f, true
		}
	}
	return "", 0, false
}

// arrow returns what is wrong with package from importing package to, both of
// ours, or "".
func arrow(from, to string) string {
	a, fa, ok := room(from)
	if !ok {
		return from + " has no place in the house: give its room a floor"
	}
	b, fb, ok := room(to)
	if !ok {
		return to + " has no place in the house: give its room a floor"
	}
	if a == b || fb < fa {
		return ""
	}
	// FHIR is HTTP's vocabulary: the one adapter that another may use.
	if a == adapters+"httpgw" && b == adapters+"fhir" {
		return ""
	}
	return fmt.Sprintf("%s imports %s: arrows point downwards and never between rooms of one floor", from, to)
}

// owned returns what is wrong with package from importing a library, or "".
func owned(from, library string) string {
	for lib, rooms := range owners {
		if library != lib && !strings.HasPrefix(library, lib+"/") {
			continue
		}
		in, _, _ := room(from)
		if !slices.Contains(rooms, in) {
			return fmt.Sprintf("%s imports %s, which is the matter of %v", from, library, rooms)
		}
	}
	return ""
}

func TestArrowsPointOneWay(t *testing.T) {
	for _, p := range list(t) {
		from := short(p.ImportPath)
		if _, _, ok := room(from); !ok {
			t.Errorf("%s has no place in the house: give its room a floor", from)
			continue
		}
		for _, imp := range p.Imports {
			wrong := owned(from, imp)
			if to := short(imp); to != "" {
				wrong = arrow(from, to)
			}
			if wrong != "" {
				t.Error(wrong)
			}
		}
	}
}

// TestContractKnowsNoProtocol holds two promises with everything that is
// linked, not only what is imported directly: the contract does not know HTTP,
// and neither policy nor the registry knows any protocol.
func TestContractKnowsNoProtocol(t *testing.T) {
	seen := 0
	for _, p := range list(t) {
		pkg := short(p.ImportPath)
		if pkg == "pkg/protocol" {
			seen++
			if slices.Contains(p.Deps, "net/http") {
				t.Error("pkg/protocol links net/http")
			}
		}
		if pkg == "pkg/policy" || pkg == "pkg/device" || pkg == "pkg/audit" || pkg == "pkg/ca" {
			seen++
			for _, dep := range p.Deps {
				if strings.HasPrefix(short(dep), adapters) {
					t.Errorf("%s links %s", pkg, dep)
				}
			}
		}
	}
	if seen == 0 {
		t.Error("none of the packages was found")
	}
}

func TestArrowRules(t *testing.T) {
	for _, c := range []struct {
		from, to string
		fine     bool
	}{
		{"cmd/anteroom", "pkg/cli", true},
		{"pkg/cli", "pkg/admin", true},
		{"pkg/admin", "pkg/cli", false},
		{"pkg/edge", "pkg/policy", true},
		{"pkg/policy", "pkg/edge", false},
		{"pkg/policy", "pkg/protocol", true},
		{"pkg/policy", "pkg/protocol/fhir", false},
		{"pkg/policy", "pkg/audit", false},
		{"pkg/policy", "pkg/breakglass", true},
		{"pkg/breakglass", "pkg/ca", false},
		{"pkg/device", "pkg/protocol", false},
		{"pkg/device", "pkg/store", true},
		{"pkg/store", "pkg/store/bolt", true},
		{"pkg/store/bolt", "pkg/device", false},
		{"pkg/device", "pkg/ca", false},
		{"pkg/protocol/httpgw", "pkg/protocol/fhir", true},
		{"pkg/protocol/fhir", "pkg/protocol/httpgw", false},
		{"pkg/protocol/hl7", "pkg/protocol/fhir", false},
		{"pkg/protocol/httpgw", "pkg/edge", false},
		{"cmd/anteroom-agent", "pkg/agent", true},
		{"pkg/agent", "pkg/http1", true},
		{"pkg/agent", "pkg/store", false},
		{"pkg/agent/relay", "pkg/ca", false},
		{"pkg/nowhere", "pkg/config", false},
	} {
		if wrong := arrow(c.from, c.to); (wrong == "") != c.fine {
			t.Errorf("%s → %s: %q, want fine: %v", c.from, c.to, wrong, c.fine)
		}
	}
	for _, c := range []struct {
		from, library string
		fine          bool
	}{
		{"pkg/store/bolt", "go.etcd.io/bbolt", true},
		{"pkg/device", "go.etcd.io/bbolt", false},
		{"pkg/policy", "github.com/open-policy-agent/opa/v1/rego", true},
		{"pkg/protocol/httpgw", "github.com/open-policy-agent/opa/v1/rego", false},
		{"pkg/cli", "os/exec", false},
		{"pkg/cli", "os", true},
	} {
		if wrong := owned(c.from, c.library); (wrong == "") != c.fine {
			t.Errorf("%s imports %s: %q, want fine: %v", c.from, c.library, wrong, c.fine)
		}
	}
}

// maxLines is the longest a source file may be before it should be two.
const maxLines = 600

func TestSourcesKeepTheRules(t *testing.T) {
	fset := token.NewFileSet()
	checked := 0
	for _, p := range list(t) {
		pkg := short(p.ImportPath)
		for _, name := range p.GoFiles {
			src, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			wrongs, err := sourceRules(fset, pkg, name, src)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range wrongs {
				t.Error(w)
			}
			checked++
		}
	}
	if checked == 0 {
		t.Error("no file was checked")
	}
}

// within reports whether pkg is one of the rooms or below one.
func within(pkg string, rooms ...string) bool {
	return slices.ContainsFunc(rooms, func(r string) bool { return pkg == r || strings.HasPrefix(pkg, r+"/") })
}

// deciding reports whether a package decides, and so has no clock but the one it
// was given. (The audit log takes a record's time from such a clock too, but
// measures its own work with the machine's.)
func deciding(pkg string) bool {
	return pkg == "pkg/protocol" ||
		within(pkg, "pkg/policy", "pkg/device", "pkg/breakglass", "pkg/edge", "pkg/ca", "pkg/enrol", "pkg/revocation", "pkg/protocol/fhir")
}

// sourceRules returns what in one file would be a security bug or a breach of
// the house's habits. The same bans stand in .golangci.yml for editors; here
// they hold wherever the tests run.
func sourceRules(fset *token.FileSet, pkg, name string, src []byte) (wrongs []string, err error) {
	f, err := parser.ParseFile(fset, pkg+"/"+name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	say := func(n ast.Node, why string) {
		at := fset.Position(n.Pos())
		wrongs = append(wrongs, fmt.Sprintf("%s:%d: %s", at.Filename, at.Line, why))
	}
	if n := bytes.Count(src, []byte("\n")); n > maxLines && !ast.IsGenerated(f) {
		wrongs = append(wrongs, fmt.Sprintf("%s/%s: %d lines; past %d a file should be two", pkg, name, n, maxLines))
	}
	imports := make(map[string]string) // local name → path
	for _, s := range f.Imports {
		p, err := strconv.Unquote(s.Path.Value)
		if err != nil {
			return nil, err
		}
		local := path.Base(p)
		if s.Name != nil {
			local = s.Name.Name
		}
		if local == "." {
			say(s, "a dot import hides where names come from")
		}
		imports[local] = p
	}
	// is reports whether e names member of the package with the given path.
	is := func(e ast.Expr, path string, members ...string) bool {
		sel, ok := e.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		x, ok := sel.X.(*ast.Ident)
		return ok && imports[x.Name] == path && slices.Contains(members, sel.Sel.Name)
	}
	product := within(pkg, "pkg", "cmd")
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && product && fn.Recv == nil && fn.Name.Name == "init" {
			say(fn, "init() runs before anybody asked: hand things in instead")
		}
	}
	for _, g := range f.Comments {
		for _, word := range []string{"TODO", "FIXME", "XXX", "HACK"} {
			if strings.Contains(g.Text(), word) {
				say(g, word+": finish it or file an issue")
			}
		}
	}
	var deadline *ast.CallExpr
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			if product && is(n.Type, "crypto/tls", "Config") && !within(pkg, "pkg/edge", "pkg/upstream", "pkg/demo", "pkg/agent/identity", "pkg/agent/store/storetest") {
				say(n, "a tls.Config made here escapes the one place where listeners (pkg/edge), backends (pkg/upstream) and the agent (pkg/agent/identity) get theirs")
			}
		case *ast.Ident:
			if n.Name == "VerifyPeerCertificate" {
				say(n, "VerifyPeerCertificate is not called on resumed handshakes, so a revoked device would get in: use VerifyConnection")
			}
		case *ast.KeyValueExpr:
			if k, ok := n.Key.(*ast.Ident); ok && product && k.Name == "InsecureSkipVerify" && !slices.Contains(unverified, pkg+"/"+name) {
				say(n, "InsecureSkipVerify: verify against a pool of one's own instead")
			}
		case *ast.SelectorExpr:
			switch {
			case product && is(n, "net/http", "DefaultClient", "DefaultTransport", "DefaultServeMux", "Get", "Post", "PostForm", "Head"):
				say(n, "the default client has no timeout, follows proxies from the environment and trusts the system's roots")
			case product && is(n, "fmt", "Print", "Println", "Printf"):
				say(n, "standard output belongs to whoever called the command: print to the writer that was handed in")
			case product && is(n, "log/slog", "Info", "Warn", "Error", "Debug", "Default", "SetDefault"):
				say(n, "the default logger is a global: use the one that was handed in")
			case product && is(n, module+"/pkg/ca", "Device") && !within(pkg, "pkg/ca", "pkg/enrol"):
				say(n, "a device gets its certificate from enrol.Registrar, which checks, and from nowhere else")
			case product && is(n, "os", "Exit") && !within(pkg, "cmd"):
				say(n, "os.Exit skips every deferred flush: return a code to main")
			}
		case *ast.CallExpr:
			// A connection's deadline is a time of the real clock: time.Now().Add.
			if add, ok := n.Fun.(*ast.SelectorExpr); ok && add.Sel.Name == "Add" {
				if now, ok := add.X.(*ast.CallExpr); ok {
					deadline = now
				}
			}
			if is(n.Fun, "time", "Now") && n != deadline && deciding(pkg) {
				say(n, "code that decides reads the clock that was handed in, so that tests can set it")
			}
		}
		return true
	})
	return wrongs, nil
}

func TestSourceRules(t *testing.T) {
	for _, c := range []struct {
		pkg, src string
		want     string // part of the one complaint; "" for none
	}{
		{"pkg/cli", `import "crypto/tls"; var c = &tls.Config{}`, "tls.Config"},
		{"pkg/cli", `import t "crypto/tls"; var c = &t.Config{}`, "tls.Config"},
		{"pkg/cli", `import "crypto/tls"; func f(c *tls.Config) {}`, ""},
		{"pkg/edge", `import "crypto/tls"; var c = &tls.Config{}`, ""},
		{"pkg/edge", `import "crypto/tls"; var c = &tls.Config{VerifyPeerCertificate: nil}`, "resumed"},
		{"pkg/upstream", `import "crypto/tls"; var c = &tls.Config{InsecureSkipVerify: true}`, "InsecureSkipVerify"},
		{"pkg/agent/relay", `import "crypto/tls"; var c = &tls.Config{}`, "tls.Config"},
		{"pkg/agent/identity", `import "crypto/tls"; var c = &tls.Config{InsecureSkipVerify: true}`, "InsecureSkipVerify"},
		{"pkg/upstream", `import "net/http"; var c = http.DefaultClient`, "default client"},
		{"pkg/edge", `import "crypto/tls"; var c = &tls.Config{InsecureSkipVerify: true}`, "InsecureSkipVerify"},
		{"pkg/device", `import "time"; var n = time.Now()`, "clock"},
		{"pkg/device", `import "time"; var clock = time.Now`, ""},
		{"pkg/edge", `import "time"; var n = time.Now().Unix()`, "clock"},
		{"pkg/edge", `import "time"; var n = time.Now().Add(1)`, ""},
		{"pkg/cli", `import "time"; var n = time.Now()`, ""},
		{"pkg/cli", `import "fmt"; func f() { fmt.Println() }`, "standard output"},
		{"pkg/cli", `import "fmt"; var s = fmt.Sprint()`, ""},
		{"pkg/admin", `import "` + module + `/pkg/ca"; var p = ca.Device`, "enrol.Registrar"},
		{"pkg/enrol", `import "` + module + `/pkg/ca"; var p = ca.Device`, ""},
		{"pkg/cli", `func init() {}`, "init()"},
		{"pkg/cli", "// TO" + "DO: later\nvar x int", "finish it"},
		{"pkg/cli", `import "os"; func f() { os.Exit(1) }`, "os.Exit"},
		{"cmd/anteroom", `import "os"; func f() { os.Exit(1) }`, ""},
		{"pkg/cli", strings.Repeat("\n", maxLines+1), "should be two"},
	} {
		got, err := sourceRules(token.NewFileSet(), c.pkg, "x.go", []byte("package x\n"+c.src+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		fine := len(got) == 0
		if c.want != "" {
			fine = len(got) == 1 && strings.Contains(got[0], c.want)
		}
		if !fine {
			t.Errorf("%s: %.60s: got %q, want %q", c.pkg, c.src, got, c.want)
		}
	}
}
