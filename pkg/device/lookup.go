package device

import (
	"errors"
	"fmt"

	"github.com/hashicorp/go-memdb"
)

// schema describes the table in memory. It has the one index that every
// transaction asks; another would take as much memory as the record itself, and
// what else is asked for is asked by people.
func schema() *memdb.DBSchema {
	return &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{table: {
		Name:    table,
		Indexes: map[string]*memdb.IndexSchema{"id": {Name: "id", Unique: true, Indexer: ids{}}},
	}}}
}

// ids indexes a record by its id. It is memdb's index of a text field without
// the reflection.
type ids struct{}

// FromObject implements memdb.SingleIndexer.
func (ids) FromObject(obj any) (bool, []byte, error) {
	rec, ok := obj.(*Record)
	if !ok {
		return false, nil, fmt.Errorf("%T in the registry", obj)
	}
	return rec.ID != "", key(rec.ID), nil
}

// FromArgs implements memdb.Indexer.
func (ids) FromArgs(args ...any) ([]byte, error) {
	if len(args) != 1 {
		return nil, errors.New("one text is needed")
	}
	s, ok := args[0].(string)
	if !ok {
		return nil, fmt.Errorf("%T is no text", args[0])
	}
	return key(s), nil
}

// key ends an id with what no id holds, so that none begins another.
func key(id string) []byte {
	b := make([]byte, len(id)+1)
	copy(b, id)
	return b
}

// Get returns a device's record. Until the registry is loaded it looks into the
// store, which has the last word.
func (g *Registry) Get(id string) (*Record, bool) {
	// Asked before: a record that comes between the two questions is not missed.
	whole := g.reading.whole.Load()
	if rec, ok := get(g.db.Txn(false), id); ok || whole {
		return rec, ok
	}
	return g.early(id)
}

func get(txn *memdb.Txn, id string) (*Record, bool) {
	obj, err := txn.First(table, "id", id)
	if err != nil || obj == nil {
		return nil, false
	}
	rec, ok := obj.(*Record)
	return rec, ok
}
