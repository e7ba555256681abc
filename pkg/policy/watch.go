package policy

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// How the directory is watched.
const (
	// DefaultSettle lets an editor's several steps of one save, and a copy of
	// several files, become one change.
	DefaultSettle = 150 * time.Millisecond
	// DefaultPoll finds changes that the system did not report: on a network
	// file system, past the limit of watches, in an unusual arrangement of links.
	DefaultPoll = 10 * time.Second

	// settleMost bounds the waiting while changes keep coming, in settles.
	settleMost = 20
	// goneSettle is how many settles a file must stay away before the set is
	// taken to be without it. Some editors remove a file before they write it
	// anew, and without it a set may allow what it should not.
	goneSettle = 8
	// maxLinks bounds the symbolic links followed to find the directory, as the
	// kernel does.
	maxLinks = 40
)

// Watch puts each good change of the directory in force until ctx ends, and
// then returns nil. Call it once.
func (e *Engine) Watch(ctx context.Context) error {
	for ctx.Err() == nil {
		dir := e.dir()
		w := e.watcher(dir)
		// Looked at after the watches are set: what changes from here on is
		// reported, what changed before is seen now.
		e.look(ctx, dir)
		e.await(ctx, w)
		w.close()
	}
	return nil
}

func (e *Engine) dir() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cfg.Enforce
}

// look loads the directory if it is not as at the last look.
func (e *Engine) look(ctx context.Context, dir string) {
	if e.isGiven() {
		return
	}
	if e.lacksFiles(dir) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(goneSettle * e.opt.Settle):
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	// The error was logged and reported where it was found.
	_ = e.load(ctx, e.cfg, false)
}

// lacksFiles reports whether a file of the set in force is not there.
func (e *Engine) lacksFiles(dir string) bool {
	s := e.current.Load()
	for _, name := range s.files {
		if _, err := os.Stat(filepath.Join(dir, filepath.FromSlash(name))); err != nil {
			return true
		}
	}
	return false
}

// await returns when a change has settled, when it is time to look anyway, or
// when ctx ends.
func (e *Engine) await(ctx context.Context, w *watcher) {
	poll := time.NewTimer(e.opt.Poll)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
			return
		case <-e.moved:
			return
		case err, ok := <-w.errors:
			if !ok {
				w.errors = nil
				continue
			}
			// Events were lost: look now.
			e.opt.Logger.Warn("watching the policy directory", "err", err)
			return
		case ev, ok := <-w.events:
			if !ok {
				w.events = nil
				continue
			}
			if w.concerns(ev.Name) {
				e.settle(ctx, w)
				return
			}
		}
	}
}

// settle returns when no change came for a while.
func (e *Engine) settle(ctx context.Context, w *watcher) {
	quiet := time.NewTimer(e.opt.Settle)
	defer quiet.Stop()
	most := time.NewTimer(settleMost * e.opt.Settle)
	defer most.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-quiet.C:
			return
		case <-most.C:
			return
		case ev, ok := <-w.events:
			if !ok {
				w.events = nil
				continue
			}
			if w.concerns(ev.Name) {
				quiet.Reset(e.opt.Settle)
			}
		}
	}
}

// A watcher hears of changes in the directories of a set, and of the
// replacement of the directory itself.
type watcher struct {
	fs     *fsnotify.Watcher // nil if the system gave none
	events <-chan fsnotify.Event
	errors <-chan error
	inside map[string]bool // directories in which everything counts
	names  map[string]bool // paths that lead to the directory
}

// watcher sets the watches. What cannot be watched is left to polling.
func (e *Engine) watcher(dir string) *watcher {
	w := &watcher{inside: map[string]bool{}, names: map[string]bool{}}
	n, err := fsnotify.NewWatcher()
	if err != nil {
		e.opt.Logger.Warn("policy changes are found by polling only", "err", err, "every", e.opt.Poll)
		return w
	}
	w.fs, w.events, w.errors = n, n.Events, n.Errors
	var missed error
	add := func(path string) {
		if err := n.Add(path); err != nil && !os.IsNotExist(err) && missed == nil {
			missed = err
		}
	}
	ways, real := resolve(dir)
	for _, p := range ways {
		w.names[p] = true
		add(filepath.Dir(p))
	}
	_ = filepath.WalkDir(real, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		if path != real && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		w.inside[path] = true
		add(path)
		return nil
	})
	if missed != nil {
		e.opt.Logger.Warn("some policy changes are found by polling only", "err", missed, "every", e.opt.Poll)
	}
	return w
}

func (w *watcher) close() {
	if w.fs != nil {
		_ = w.fs.Close()
	}
}

func (w *watcher) concerns(path string) bool {
	path = filepath.Clean(path)
	return w.names[path] || w.inside[path] || w.inside[filepath.Dir(path)]
}

// resolve follows the links that lead to dir and returns every path whose
// replacement would make dir another directory, and the real one.
func resolve(dir string) (ways []string, real string) {
	real, err := filepath.Abs(dir)
	if err != nil {
		return nil, dir
	}
	for range maxLinks {
		link, rest := firstLink(real)
		if link == "" {
			break
		}
		to, err := os.Readlink(link)
		if err != nil {
			break
		}
		ways = append(ways, link)
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(link), to)
		}
		real = filepath.Join(to, rest)
	}
	ways = append(ways, real)
	slices.Sort(ways)
	return slices.Compact(ways), real
}

// firstLink returns the first part of an absolute path that is a symbolic link,
// and what follows it.
func firstLink(path string) (link, rest string) {
	for i := 1; i <= len(path); i++ {
		if i < len(path) && path[i] != filepath.Separator {
			continue
		}
		fi, err := os.Lstat(path[:i])
		if err != nil {
			return "", ""
		}
		if fi.Mode()&fs.ModeSymlink != 0 {
			return path[:i], path[i:]
		}
	}
	return "", ""
}
