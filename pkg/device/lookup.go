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

// Get returns a device's record.
func (g *Registry) Get(id string) (*Record, bool) { return get(g.db.Txn(false), id) }

func get(txn *memdb.Txn, id string) (*Record, bool) {
	obj, err := txn.First(table, "id", id)
	if err != nil || obj == nil {
		return nil, false
	}
	rec, ok := obj.(*Record)
	return rec, ok
}

// ByFingerprint returns the record of the device that a certificate belongs to,
// whether it is still valid or not.
func (g *Registry) ByFingerprint(fp string) (*Record, bool) {
	return g.owner(g.fingerprints, fp, func(c *Certificate) bool { return c.Fingerprint == fp })
}

// ByKey returns the record of the device that a key belongs to, or belonged to:
// see [Certificate].
func (g *Registry) ByKey(key string) (*Record, bool) {
	return g.owner(g.keys, key, func(c *Certificate) bool { return c.Key == key })
}

// owner returns the record of the device that has the name, as has finds it.
func (g *Registry) owner(o *owners, name string, has func(*Certificate) bool) (*Record, bool) {
	if name == "" {
		return nil, false
	}
	one, more := o.of(name)
	txn := g.db.Txn(false)
	for i := -1; i < len(more); i++ {
		id := one
		if i >= 0 {
			id = more[i]
		}
		if r, ok := get(txn, id); ok {
			for i := range r.Certificates {
				if has(&r.Certificates[i]) {
					return r, true
				}
			}
		}
	}
	return nil, false
}

// own has a device own what its record names. It comes before the record is
// visible: who asks for a name looks into the record.
func (g *Registry) own(r *Record) {
	g.fingerprints.add(r.ID, r.fingerprints())
	g.keys.add(r.ID, r.keys())
}

// disown takes from a device what its record named and names no more. It comes
// after the record is visible.
func (g *Registry) disown(old, r *Record) {
	g.fingerprints.leave(r.ID, old.fingerprints(), r.fingerprints())
	g.keys.leave(r.ID, old.keys(), r.keys())
}

func (r *Record) fingerprints() []string {
	out := make([]string, 0, len(r.Certificates))
	for i := range r.Certificates {
		out = append(out, r.Certificates[i].Fingerprint)
	}
	return out
}

func (r *Record) keys() []string {
	out := make([]string, 0, len(r.Certificates))
	for i := range r.Certificates {
		if k := r.Certificates[i].Key; k != "" {
			out = append(out, k)
		}
	}
	return out
}
