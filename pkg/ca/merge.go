package ca

import (
	"fmt"
	"sync"

	"github.com/smallstep/certificates/db"
	"github.com/smallstep/nosql"
	"github.com/smallstep/nosql/database"
)

// A merging database writes what is asked for while a commit is under way in one
// commit after it: each costs two waits for the disk, and many devices enrol at the
// same time. It has no goroutine: whoever waited first commits for all. Update
// returns when what it was given is on stable storage, as ever.
type merging struct {
	nosql.DB

	commit sync.Mutex // held while a batch is taken and committed

	mu    sync.Mutex
	queue []*pending
}

// A pending transaction waits for its commit.
type pending struct {
	tx   *database.Tx
	done chan error // of one
}

func openDatabase(path string) (*db.DB, error) {
	d, err := db.New(&db.Config{Type: "bbolt", DataSource: path})
	if err != nil {
		return nil, err
	}
	own, ok := d.(*db.DB)
	if !ok {
		return nil, fmt.Errorf("the database is a %T", d)
	}
	own.DB = &merging{DB: own.DB}
	return own, nil
}

// Update implements nosql.DB. Transactions that do anything but write values are
// done alone: what they read must not depend on others'.
func (m *merging) Update(tx *database.Tx) error {
	for _, op := range tx.Operations {
		if op.Cmd != database.Set {
			return m.DB.Update(tx)
		}
	}
	p := &pending{tx, make(chan error, 1)}
	m.mu.Lock()
	m.queue = append(m.queue, p)
	m.mu.Unlock()

	m.commit.Lock()
	defer m.commit.Unlock()
	select {
	case err := <-p.done: // with somebody else's
		return err
	default:
	}
	m.mu.Lock()
	batch := m.queue
	m.queue = nil
	m.mu.Unlock()
	all := &database.Tx{}
	for _, p := range batch {
		all.Operations = append(all.Operations, p.tx.Operations...)
	}
	err := m.DB.Update(all)
	for _, p := range batch {
		if err != nil && len(batch) > 1 {
			// One of them may be to blame. To write a value twice is to write it once.
			p.done <- m.DB.Update(p.tx)
			continue
		}
		p.done <- err
	}
	return <-p.done
}
