package policy

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/anteroom-iomt/anteroom/pkg/config"
)

// A Problem is one thing wrong with a policy set.
type Problem struct {
	// File is the file's path below the set's directory, with slashes, or "" if
	// the problem is not in one file.
	File string `json:"file,omitempty"`
	// Line and Column count from 1; 0 if unknown.
	Line   int `json:"line,omitempty"`
	Column int `json:"column,omitempty"`
	// Message says what is wrong and, where it can, what to do.
	Message string `json:"message"`
}

func (p Problem) String() string {
	switch {
	case p.File == "":
		return p.Message
	case p.Line == 0:
		return p.File + ": " + p.Message
	default:
		return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Message)
	}
}

// A LoadError lists what is wrong with a policy set that could not be loaded.
type LoadError struct {
	Dir string
	// Problems is sorted by file and line and has at least one element.
	Problems []Problem
	// Revision is the content hash of what was read, or "" if it could not be
	// read. It tells two attempts on the same content apart from a change.
	Revision string

	cause error
}

// Error gives one line per problem.
func (e *LoadError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "load policy set %s", e.Dir)
	if len(e.Problems) == 1 {
		return b.String() + ": " + e.Problems[0].String()
	}
	fmt.Fprintf(&b, ": %d problems", len(e.Problems))
	for _, p := range e.Problems {
		b.WriteString("\n  ")
		b.WriteString(p.String())
	}
	return b.String()
}

// Unwrap returns the operating system's error, if that was the cause.
func (e *LoadError) Unwrap() error { return e.cause }

// problems collects what is found wrong while loading.
type problems []Problem

func (ps *problems) add(file string, line int, format string, args ...any) {
	*ps = append(*ps, Problem{File: file, Line: line, Message: fmt.Sprintf(format, args...)})
}

func (ps problems) sorted() []Problem {
	sort.SliceStable(ps, func(i, j int) bool {
		if ps[i].File != ps[j].File {
			return ps[i].File < ps[j].File
		}
		return ps[i].Line < ps[j].Line
	})
	return ps
}

// addRego adds OPA's own errors, each with its place.
func (ps *problems) addRego(file string, err error) {
	var list ast.Errors
	var one *ast.Error
	switch {
	case errors.As(err, &list):
	case errors.As(err, &one):
		list = ast.Errors{one}
	default:
		ps.add(file, 0, "%s", err)
		return
	}
	for _, e := range list {
		p := Problem{File: file, Message: e.Code + ": " + describe(e)}
		if e.Location != nil {
			if e.Location.File != "" {
				p.File = e.Location.File
			}
			p.Line, p.Column = e.Location.Row, e.Location.Col
		}
		*ps = append(*ps, p)
	}
}

// describe renders an OPA error in one line, with the nearest name where one
// was misspelt.
func describe(e *ast.Error) string {
	msg := strings.Join(strings.Fields(e.Message), " ")
	switch d := e.Details.(type) {
	case *ast.RefErrInvalidDetail:
		var names []string
		for _, v := range d.OneOf {
			if s, ok := v.(ast.String); ok {
				names = append(names, string(s))
			}
		}
		if d.Pos <= 0 || d.Pos >= len(d.Ref) || len(names) == 0 {
			return msg
		}
		bad, ok := d.Ref[d.Pos].Value.(ast.String)
		if !ok {
			return msg
		}
		parent := d.Ref[:d.Pos].String()
		if near := config.Nearest(string(bad), names); near != "" {
			return fmt.Sprintf("%s: %s has no field %q, did you mean %q?", msg, parent, string(bad), near)
		}
		sort.Strings(names)
		return fmt.Sprintf("%s: %s has no field %q, only %s", msg, parent, string(bad), strings.Join(names, ", "))
	case nil:
		return msg
	default:
		lines := d.Lines()
		for i := range lines {
			lines[i] = strings.TrimSpace(lines[i])
		}
		if s := strings.Join(lines, " "); s != "" && len(s) < 300 {
			return msg + " (" + s + ")"
		}
		return msg
	}
}
