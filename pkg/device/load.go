package device

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/hashicorp/go-memdb"

	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// hand is how many records are handed over at a time from who reads them to who
// files them; few are read ahead.
const hand = 256

// load reads all records into a transaction. Reading a record takes as long as
// filing it, so that two do it.
func (g *Registry) load(ctx context.Context, r store.Reader, txn *memdb.Txn) error {
	read, filed := make(chan []*Record, 1), make(chan error, 1)
	go func() {
		var err error
		for recs := range read {
			for _, rec := range recs {
				if err == nil {
					err = g.file(rec, txn)
				}
			}
		}
		filed <- err
	}()
	err := g.readAll(ctx, r, read)
	close(read)
	if err := errors.Join(err, <-filed); err != nil {
		return err
	}
	value, err := r.Get(metaTable, revisionKey)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var n uint64
	if err := json.Unmarshal(value, &n); err != nil {
		return fmt.Errorf("revision: %w", err)
	}
	g.revision = max(g.revision, n)
	return nil
}

// readAll reads all records and hands them over.
func (g *Registry) readAll(ctx context.Context, r store.Reader, to chan<- []*Record) error {
	patients := map[string][]byte{}
	if err := r.Each(patientsTable, "", func(id string, value []byte) error {
		patients[id] = value
		return nil
	}); err != nil {
		return err
	}
	d, recs := newDecoder(), make([]*Record, 0, hand)
	if err := r.Each(table, "", func(id string, value []byte) error {
		rec, err := d.record(id, value)
		if err != nil {
			return err
		}
		if value, ok := patients[id]; ok {
			if err := rec.readPatients(value); err != nil {
				return err
			}
		}
		if recs = append(recs, rec); len(recs) == hand {
			to <- recs
			recs = make([]*Record, 0, hand)
			return ctx.Err()
		}
		return nil
	}); err != nil {
		return err
	}
	to <- recs
	return nil
}

// file puts a record where it is found. Nobody else has the registry yet.
func (g *Registry) file(rec *Record, txn *memdb.Txn) error {
	g.revision = max(g.revision, rec.Revision)
	for i := range rec.Certificates {
		g.known.certificates++
		if rec.Certificates[i].Key != "" {
			g.known.keyed++
		}
	}
	return txn.Insert(table, rec)
}
