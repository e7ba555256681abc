package device

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/anteroom-iomt/anteroom/pkg/store"
	"github.com/anteroom-iomt/anteroom/pkg/store/bolt"
)

// writerEnv makes the test binary change the registry it names until it is killed.
const writerEnv = "ANTEROOM_TEST_REGISTRY_WRITER"

func TestMain(m *testing.M) {
	if path := os.Getenv(writerEnv); path != "" {
		fmt.Fprintln(os.Stderr, changeFor(path))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// memory is a store without a disk, which fails when it is told to.
type memory struct {
	mu   sync.Mutex
	rows map[string]map[string][]byte
	fail error
}

func (m *memory) View(_ context.Context, f func(store.Reader) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return f(m)
}

func (m *memory) Update(_ context.Context, f func(store.Writer) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	return f(m)
}

func (m *memory) Close() error { return nil }

func (m *memory) Get(table, key string) ([]byte, error) {
	if v, ok := m.rows[table][key]; ok {
		return v, nil
	}
	return nil, store.ErrNotFound
}

func (m *memory) Each(table, prefix string, f func(string, []byte) error) error {
	for k, v := range m.rows[table] {
		if !strings.HasPrefix(k, prefix) {
			continue
		}
		if err := f(k, v); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) Put(table, key string, value []byte) error {
	if m.rows == nil {
		m.rows = map[string]map[string][]byte{}
	}
	if m.rows[table] == nil {
		m.rows[table] = map[string][]byte{}
	}
	m.rows[table][key] = value
	return nil
}

func (m *memory) Delete(table, key string) error { delete(m.rows[table], key); return nil }

// model is what the life of a device means, said a second time and differently:
// as what has been done to it.
type model struct {
	status    Status
	withdrawn map[string]bool // by fingerprint
	all       []string
}

// may reports whether the design lets a status follow another.
func (m *model) may(to Status) bool {
	switch {
	case m.status == Retired || m.status == to:
		return false
	case to == Retired:
		return true
	case m.status == Revoked:
		return false
	case to == Revoked, to == Quarantined:
		return true
	}
	return to == Active
}

// Whatever is done in whatever order, with restarts and failing disks between:
// the registry is what the model is, a certificate that was withdrawn stays so,
// one certificate finds one device, and revisions only grow.
func TestTheRegistryIsWhatWasDoneToIt(t *testing.T) {
	for seed := range uint64(30) {
		rnd, st, ctx := rand.New(rand.NewPCG(seed, 1)), &memory{}, context.Background()
		clock := time.Unix(1.7e9, 0)
		open := func() *Registry {
			g, err := Open(ctx, st, Options{Clock: func() time.Time { clock = clock.Add(time.Second); return clock }})
			if err != nil {
				t.Fatal(err)
			}
			return g
		}
		g, models, certs, revision := open(), map[string]*model{}, 0, uint64(0)
		certificate := func() Certificate {
			certs++
			return Certificate{Serial: fmt.Sprint(certs), Fingerprint: fingerprint(certs), NotAfter: time.Unix(2e9, 0)}
		}
		for step := range 300 {
			id := fmt.Sprintf("pump-%d", rnd.IntN(4))
			m := models[id]
			if rnd.IntN(10) == 0 {
				st.fail = errors.New("the disk is full")
			}
			var rec *Record
			var err error
			may, done := false, func() {}
			switch op := rnd.IntN(7); {
			case op == 0: // create
				c := certificate()
				may, done = m == nil, func() { models[id] = &model{Active, map[string]bool{}, []string{c.Fingerprint}} }
				rec, err = g.Create(ctx, &Record{ID: id, Class: "infusion-pump", Status: Active, Certificates: []Certificate{c}})
			case op == 1: // renew
				c := certificate()
				may, done = m != nil && m.status != Retired && len(m.all) < maxCertificates, func() { m.all = append(m.all, c.Fingerprint) }
				rec, err = g.Update(ctx, id, func(r *Record) error { r.Certificates = append(r.Certificates, c); return nil })
			case op == 2: // give a certificate back
				n := 0
				rec, err = g.Update(ctx, id, func(r *Record) error {
					for i := range r.Certificates {
						if !r.Certificates[i].RevokedAt.IsZero() {
							r.Certificates[i].RevokedAt = time.Time{}
							n++
						}
					}
					return nil
				})
				may = m != nil && m.status != Retired && n == 0
			case op == 3: // forget what was withdrawn
				n := 0
				rec, err = g.Update(ctx, id, func(r *Record) error {
					var kept []Certificate
					for _, c := range r.Certificates {
						if c.RevokedAt.IsZero() {
							kept = append(kept, c)
						} else {
							n++
						}
					}
					r.Certificates = kept
					return nil
				})
				may = m != nil && m.status != Retired && n == 0
			case op == 4: // be granted a certificate, anew or not
				c, again := certificate(), rnd.IntN(2) == 0
				may = m != nil && len(m.all) < maxCertificates && (m.status == Pending || m.status == Active || again && m.status == Revoked)
				done = func() { m.status, m.all = Active, append(m.all, c.Fingerprint) }
				rec, err = g.Grant(ctx, Grant{ID: id, Certificate: c, Again: again})
			default:
				to := []Status{Pending, Active, Active, Quarantined, Quarantined, Revoked, Retired}[rnd.IntN(7)]
				may, done = m != nil && m.may(to), func() {
					m.status = to
					if to == Revoked || to == Retired {
						for _, fp := range m.all {
							m.withdrawn[fp] = true
						}
					}
				}
				rec, err = g.SetStatus(ctx, id, to, "because")
			}
			if (err == nil) != (may && st.fail == nil) {
				t.Fatalf("seed %d step %d, %s: %v, should be allowed: %v, disk: %v", seed, step, id, err, may, st.fail)
			}
			if err == nil {
				done()
				if rec.Revision != revision+1 {
					t.Fatalf("seed %d step %d: revision %d after %d", seed, step, rec.Revision, revision)
				}
				revision++
			}
			st.fail = nil
			if rnd.IntN(20) == 0 {
				g = open()
			}
			compare(t, g, models)
		}
	}
}

func compare(t *testing.T, g *Registry, models map[string]*model) {
	t.Helper()
	if n := len(g.List(Filter{})); n != len(models) {
		t.Fatalf("%d devices, want %d", n, len(models))
	}
	for id, m := range models {
		r, ok := g.Get(id)
		if !ok || r.Status != m.status || len(r.Certificates) != len(m.all) {
			t.Fatalf("%s is %+v, want %+v", id, r, m)
		}
		for _, fp := range m.all {
			if by, ok := g.ByFingerprint(fp); !ok || by != r {
				t.Fatalf("certificate %s of %s finds %+v", fp, id, by)
			}
			if got := !r.Certificate(fp).RevokedAt.IsZero(); got != m.withdrawn[fp] {
				t.Fatalf("certificate %s of %s, %s: withdrawn %v, want %v", fp, id, r.Status, got, m.withdrawn[fp])
			}
		}
		if len(g.List(Filter{Status: m.status, Class: "infusion-pump"})) != g.Counts()[m.status] {
			t.Fatal("list and counts differ")
		}
	}
}

// A change that is not durable is not visible and nobody is told of it.
func TestWhatIsNotDurableIsNotVisible(t *testing.T) {
	st, ctx := &memory{}, context.Background()
	g, err := Open(ctx, st, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Create(ctx, pump("pump-1", 1)); err != nil {
		t.Fatal(err)
	}
	before, _ := g.Get("pump-1")
	g.Subscribe(func(_, r *Record) { t.Errorf("told of %+v", r) })
	st.fail = errors.New("the disk is full")
	for what, f := range map[string]func() error{
		"create": func() error { _, err := g.Create(ctx, pump("pump-2", 2)); return err },
		"update": func() error {
			_, err := g.Update(ctx, "pump-1", func(r *Record) error { r.Model = "x"; return nil })
			return err
		},
		"revoke": func() error { _, err := g.SetStatus(ctx, "pump-1", Revoked, ""); return err },
	} {
		if err := f(); !errors.Is(err, st.fail) {
			t.Errorf("%s: %v", what, err)
		}
	}
	after, _ := g.Get("pump-1")
	if before != after || len(g.List(Filter{})) != 1 {
		t.Errorf("visible: %+v", after)
	}
}

// When quarantine returns no session holds the old record: a session here is what
// edge's is, a pointer that a subscriber swaps.
func TestNoSessionOutlivesTheCallThatEndsIt(t *testing.T) {
	g, ctx := registry(t), context.Background()
	const devices = 8
	var sessions [devices]atomic.Pointer[Record]
	g.Subscribe(func(_, r *Record) {
		var n int
		if _, err := fmt.Sscanf(r.ID, "pump-%d", &n); err == nil {
			sessions[n].Store(r)
		}
	})
	for i := range devices {
		if _, err := g.Create(ctx, pump(fmt.Sprintf("pump-%d", i), i+1)); err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			seen := [devices]uint64{}
			for {
				select {
				case <-stop:
					return
				default:
				}
				for i := range devices {
					r, ok := g.ByFingerprint(fingerprint(i + 1))
					if !ok || r.ID != fmt.Sprintf("pump-%d", i) || r.Revision < seen[i] {
						t.Errorf("read %+v after revision %d", r, seen[i])
						return
					}
					seen[i] = r.Revision
					cancel := g.Subscribe(func(_, _ *Record) {})
					g.List(Filter{Status: Quarantined})
					cancel()
				}
			}
		})
	}
	for i := range devices {
		writers.Go(func() {
			id := fmt.Sprintf("pump-%d", i)
			for n := range 20 {
				to := []Status{Quarantined, Active}[n%2]
				r, err := g.SetStatus(ctx, id, to, "")
				if err != nil {
					t.Error(err)
					return
				}
				if s := sessions[i].Load(); s != r || s.Status != to {
					t.Errorf("after %s returned the session is %s", to, s.Status)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
}

// step is a change as the killed process says it.
type step struct {
	ID       string
	Status   Status
	Certs    int
	Revision uint64
}

// changeFor enrols, renews and revokes, and says each change when it was
// acknowledged.
func changeFor(path string) error {
	st, err := bolt.Open(path)
	if err != nil {
		return err
	}
	ctx := context.Background()
	g, err := Open(ctx, st, Options{})
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	say := func(r *Record, err error) error {
		if err != nil {
			return err
		}
		return out.Encode(step{r.ID, r.Status, len(r.Certificates), r.Revision})
	}
	for n := len(g.List(Filter{})); ; n++ {
		id := fmt.Sprintf("pump-%06d", n)
		if err := say(g.Create(ctx, pump(id, 2*n))); err != nil {
			return err
		}
		if err := say(g.Update(ctx, id, func(r *Record) error {
			r.Certificates = append(r.Certificates, Certificate{Fingerprint: fingerprint(2*n + 1)})
			return nil
		})); err != nil {
			return err
		}
		if err := say(g.SetStatus(ctx, id, Revoked, "lost")); err != nil {
			return err
		}
	}
}

// Invariant 5 for the registry: kill -9, and every enrolment and revocation that
// was acknowledged is there, in one piece.
func TestNothingAcknowledgedIsLostWhenKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.db")
	said := map[string]step{}
	last := uint64(0)
	for round := range 12 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env, cmd.Stderr = append(os.Environ(), writerEnv+"="+path), os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, n := bufio.NewScanner(out), 0
		for lines.Scan() {
			var s step
			if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
				break // cut off, so never acknowledged
			}
			if s.Revision <= last {
				t.Fatalf("revision %d after %d", s.Revision, last)
			}
			said[s.ID], last = s, s.Revision
			if n++; n == 1 {
				time.AfterFunc(time.Duration(round*1371)*time.Microsecond, func() { _ = cmd.Process.Kill() })
			}
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
			t.Fatalf("the process was not killed: %v", err)
		}
		g, done := open(t, path)
		for id, s := range said {
			r, ok := g.Get(id)
			if !ok || r.Revision < s.Revision || len(r.Certificates) < s.Certs || s.Status == Revoked && r.Status != Revoked {
				t.Fatalf("acknowledged %+v, there is %+v", s, r)
			}
			for _, c := range r.Certificates {
				if by, ok := g.ByFingerprint(c.Fingerprint); !ok || by != r || c.RevokedAt.IsZero() == (r.Status == Revoked) {
					t.Fatalf("%s, %s, has a certificate %+v", id, r.Status, c)
				}
			}
		}
		done()
	}
	if len(said) < 12 {
		t.Fatalf("only %d devices were tried", len(said))
	}
}

// Hundreds of thousands of records must not make a start slow; the benchmark says
// how fast it is, this that it is all there.
func TestAFleetIsReadWhole(t *testing.T) {
	const n = 5_000
	g, done := open(t, fleet(t, n))
	defer done()
	for _, i := range []int{0, 1, n / 2, n - 1} {
		r, ok := g.ByFingerprint(fingerprint(i))
		if !ok || r.ID != fmt.Sprintf("pump-%06d", i) {
			t.Errorf("certificate %d finds %+v", i, r)
		}
	}
	if c := g.Counts(); !reflect.DeepEqual(c, map[Status]int{Active: n}) {
		t.Errorf("counts %v", c)
	}
	r, err := g.Update(t.Context(), "pump-000001", func(*Record) error { return nil })
	if err != nil || r.Revision != n+1 {
		t.Errorf("the next revision is %+v, %v", r, err)
	}
}

func TestADamagedRecordIsAnErrorAndNotADeviceLess(t *testing.T) {
	good, err := json.Marshal(pump("pump-1", 1))
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct{ key, value string }{
		"cut off":       {"pump-1", string(good[:len(good)/2])},
		"empty":         {"pump-1", ""},
		"under another": {"pump-2", string(good)},
	} {
		st := &memory{}
		_ = st.Put(table, c.key, []byte(c.value))
		if _, err := Open(t.Context(), st, Options{}); err == nil || !strings.Contains(err.Error(), c.key) {
			t.Errorf("%s: %v", what, err)
		}
	}
	st := &memory{}
	_ = st.Put(metaTable, revisionKey, []byte("many"))
	if _, err := Open(t.Context(), st, Options{}); err == nil {
		t.Error("a damaged revision: opened")
	}
}

func FuzzValidID(f *testing.F) {
	for _, s := range []string{"pump-1", "a", "a.b_c-d", "", ".a", "a..b", "A", "a/b", "a%2fb", "a\x00", strings.Repeat("a", 65), "é", "a\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if ValidID(s) != nil {
			return
		}
		if s != filepath.Clean(s) || s != filepath.Base(s) || s == "." || fmt.Sprintf("%q", s) != `"`+s+`"` || strings.ToLower(s) != s || len(s) > 64 {
			t.Errorf("%q is allowed and is not safe everywhere", s)
		}
	})
}
