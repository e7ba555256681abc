package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/api/layout"
)

// tiles checks the files of the transparency log (C2SP tlog-tiles) that a
// checkpoint commits to, entry by entry: the bundle that holds the entry, and
// each tile of hashes once what it covers is complete. Memory is one bundle and
// one tile a level.
type tiles struct {
	dir    string // the audit directory
	size   uint64 // of the checkpoint
	tree   *tree
	bundle api.EntryBundle
	levels [][]digest // hashes of the tile in the making, by level
	done   []uint64   // complete tiles, by level
}

func newTiles(dir string, size uint64) *tiles {
	return &tiles{dir: dir, size: size, tree: newTree()}
}

// root returns the root over the entries added so far.
func (t *tiles) root() digest { return t.tree.root() }

// add checks that line, whose leaf hash is given, is the log's next entry. If it
// is not it returns why, and the file that is wrong if that is one of the log's.
func (t *tiles) add(line []byte, leaf digest) (file, why string) {
	i := t.tree.size
	const width = layout.EntryBundleWidth
	if i%width == 0 {
		raw, file, exact, err := t.read(func(p uint8) string { return layout.EntriesPath(i/width, p) }, min(t.size-i, width))
		if err != nil {
			return file, err.Error()
		}
		t.bundle = api.EntryBundle{}
		if err := t.bundle.UnmarshalText(raw); err != nil {
			return file, err.Error()
		}
		want := min(t.size-i, width)
		if n := uint64(len(t.bundle.Entries)); n < want || n > want && exact {
			return file, fmt.Sprintf("the bundle holds %d entries, and should hold %d", n, want)
		}
	}
	if !bytes.Equal(t.bundle.Entries[i%width], line) {
		return "", fmt.Sprintf("this seal is not entry %d of the log (%s)", i, layout.EntriesPath(i/width, 0))
	}
	t.tree.add(leaf)
	return t.push(0, leaf)
}

// push adds a hash to the tile in the making at a level, and checks the tile
// when that completes it.
func (t *tiles) push(level int, d digest) (file, why string) {
	if level == len(t.levels) {
		t.levels = append(t.levels, nil)
		t.done = append(t.done, 0)
	}
	t.levels[level] = append(t.levels[level], d)
	if len(t.levels[level]) < layout.TileWidth {
		return "", ""
	}
	if file, why := t.check(level); why != "" {
		return file, why
	}
	sub := newTree()
	for _, h := range t.levels[level] {
		sub.add(h)
	}
	t.levels[level] = t.levels[level][:0]
	t.done[level]++
	return t.push(level+1, sub.root())
}

// finish checks the tiles at the right edge, which are not full.
func (t *tiles) finish() (file, why string) {
	for level := range t.levels {
		if len(t.levels[level]) > 0 {
			if file, why := t.check(level); why != "" {
				return file, why
			}
		}
	}
	return "", ""
}

// check compares a tile's file with the hashes it should hold.
func (t *tiles) check(level int) (file, why string) {
	have := t.levels[level]
	raw, file, exact, err := t.read(func(p uint8) string { return layout.TilePath(uint64(level), t.done[level], p) }, uint64(len(have)))
	if err != nil {
		return file, err.Error()
	}
	if n := len(have) * len(digest{}); exact && len(raw) != n {
		return file, fmt.Sprintf("the tile has %d bytes, and should have %d", len(raw), n)
	}
	for i, h := range have {
		if at := i * len(h); len(raw) < at+len(h) || !bytes.Equal(raw[at:at+len(h)], h[:]) {
			return file, fmt.Sprintf("hash %d of the tile is not that of the log's entries", i)
		}
	}
	return "", ""
}

// read returns a file of which n parts are wanted, and whether it should hold
// exactly these: the partial one of that width, or the full one if that has
// replaced it meanwhile.
func (t *tiles) read(path func(p uint8) string, n uint64) (raw []byte, file string, exact bool, err error) {
	p := uint8(n % layout.TileWidth)
	file = filepath.Join(logName, path(p))
	raw, err = os.ReadFile(filepath.Join(t.dir, file))
	if !errors.Is(err, fs.ErrNotExist) {
		return raw, file, true, err
	}
	if p != 0 {
		full := filepath.Join(logName, path(0))
		if raw, err := os.ReadFile(filepath.Join(t.dir, full)); err == nil {
			return raw, full, false, nil
		}
	}
	return nil, file, false, errors.New("the file is missing")
}
