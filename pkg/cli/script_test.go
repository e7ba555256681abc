package cli

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"anteroom": func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// patience bounds waits for what must happen.
const patience = 60 * time.Second

// TestScripts runs every command as an operator types it, and every mistake a
// newcomer makes. With the race detector, under which a program takes seconds to
// start, only the script with things that happen at the same time is run.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "script", "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	if raceEnabled {
		files = []string{filepath.Join("testdata", "script", "running.txtar")}
	}
	testscript.Run(t, testscript.Params{
		Files:               files,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			// A loopback address of the script's own, so that no other test can
			// take its ports.
			host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
			env.Setenv("ADDR", host+":8443")
			env.Setenv("TELE", host+":9464")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"hold":  hold,
			"busy":  busy,
			"mode":  mode,
			"ready": ready,
			"edit":  edit,
			"grant": grant,

			"agekeys": ageKeys,
		},
	})
}

// ageKeys NAME makes a key pair as age-keygen does: NAME.txt and NAME.pub.
func ageKeys(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: agekeys NAME")
	}
	id, err := age.GenerateX25519Identity()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".txt"), fmt.Appendf(nil, "# a test's\n%s\n", id), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".pub"), fmt.Appendf(nil, "# whose backups\n%s\n", id.Recipient()), 0o600))
}

// grant FILE sets $GRANT to the id of the emergency grant that a command's output
// names.
func grant(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: grant FILE")
	}
	id := regexp.MustCompile(`bg-[0-9a-z]+`).FindString(ts.ReadFile(args[0]))
	if id == "" {
		ts.Fatalf("%s names no grant", args[0])
	}
	ts.Setenv("GRANT", id)
}

// hold STATEDIR keeps a state directory open until the script ends, as a gateway
// does whose socket is not there.
func hold(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: hold STATEDIR")
	}
	st, err := bolt.Open(ts.MkAbs(filepath.Join(args[0], "registry.db")))
	ts.Check(err)
	ts.Defer(func() { st.Close() })
}

// busy ADDR listens on an address until the script ends.
func busy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: busy ADDR")
	}
	ln, err := net.Listen("tcp", args[0])
	ts.Check(err)
	ts.Defer(func() { ln.Close() })
}

// mode PERM FILE... checks the permissions of files.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: mode PERM FILE...")
	}
	want, err := strconv.ParseUint(args[0], 8, 32)
	ts.Check(err)
	for _, name := range args[1:] {
		st, err := os.Stat(ts.MkAbs(name))
		ts.Check(err)
		if got := st.Mode().Perm(); got != os.FileMode(want) {
			ts.Fatalf("%s has mode %04o, not %04o", name, got, want)
		}
	}
}

// ready waits until the gateway of the script serves devices.
func ready(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: ready")
	}
	c := &http.Client{Timeout: patience}
	defer c.CloseIdleConnections()
	var last error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		resp, err := c.Get("http://" + ts.Getenv("TELE") + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
			err = fmt.Errorf("readyz: %s", resp.Status)
		}
		last = err
	}
	ts.Fatalf("the gateway is not ready: %v", last)
}

// edit FILE OLD NEW replaces text in a file, once.
func edit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: edit FILE OLD NEW")
	}
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	if !strings.Contains(string(b), args[1]) {
		ts.Fatalf("%s does not hold %q", args[0], args[1])
	}
	st, err := os.Stat(path)
	ts.Check(err)
	ts.Check(os.WriteFile(path, []byte(strings.Replace(string(b), args[1], args[2], 1)), st.Mode().Perm()))
}
