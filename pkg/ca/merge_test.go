package ca

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/smallstep/nosql"
	"github.com/smallstep/nosql/database"
)

// countedDB counts commits, and refuses those with a bad key in them.
type countedDB struct {
	nosql.DB

	mu      sync.Mutex
	commits int
	keys    map[string]bool
}

var errBad = errors.New("bad")

func (c *countedDB) Update(tx *database.Tx) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.commits++
	for _, op := range tx.Operations {
		if string(op.Key) == "bad" {
			return errBad
		}
	}
	for _, op := range tx.Operations {
		c.keys[string(op.Key)] = true
	}
	return nil
}

// together has keys written at the same time, all of them while another commit is
// under way, and returns what each heard.
func together(t *testing.T, c *countedDB, keys ...string) map[string]error {
	t.Helper()
	m := &merging{DB: c}
	m.commit.Lock() // the other commit
	var wg sync.WaitGroup
	var mu sync.Mutex
	heard := map[string]error{}
	for _, key := range keys {
		wg.Go(func() {
			tx := new(database.Tx)
			tx.Set([]byte("t"), []byte(key), []byte("v"))
			err := m.Update(tx)
			mu.Lock()
			heard[key] = err
			mu.Unlock()
		})
	}
	for queued := 0; queued < len(keys); runtime.Gosched() {
		m.mu.Lock()
		queued = len(m.queue)
		m.mu.Unlock()
	}
	m.commit.Unlock()
	wg.Wait()
	return heard
}

func TestWhatWaitsForACommitIsCommittedTogether(t *testing.T) {
	c := &countedDB{keys: map[string]bool{}}
	var keys []string
	for i := range 50 {
		keys = append(keys, fmt.Sprint("key-", i))
	}
	for key, err := range together(t, c, keys...) {
		if err != nil || !c.keys[key] {
			t.Errorf("%s: %v", key, err)
		}
	}
	if c.commits != 1 {
		t.Errorf("%d commits", c.commits)
	}
}

func TestOneThatFailsFailsAlone(t *testing.T) {
	c := &countedDB{keys: map[string]bool{}}
	for key, err := range together(t, c, "a", "bad", "b") {
		if (key == "bad") != errors.Is(err, errBad) || (key == "bad") == c.keys[key] {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestOtherTransactionsAreDoneAlone(t *testing.T) {
	d, err := openDatabase(filepath.Join(t.TempDir(), "ca.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Shutdown()
	tx := new(database.Tx)
	tx.Cas([]byte("x509_certs"), []byte("1"), []byte("new"))
	if err := d.Update(tx); err != nil || !tx.Operations[0].Swapped {
		t.Errorf("%v %+v", err, tx.Operations[0])
	}
}
