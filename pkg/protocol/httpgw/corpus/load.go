package corpus

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

//go:embed cases/*.txt
var files embed.FS

// A Case is one thing a device may send, and what must become of it.
type Case struct {
	Name string // a sentence
	Why  string // where the case comes from
	File string
	Line int

	Send      []byte
	HalfClose bool // after Send, before the answer is read

	Statuses []int // of the answers, in order, interim ones (1xx) included
	Kept     bool  // the connection is usable after the last answer
	Arrives  []Request
}

// A Request is a request as it arrives at the backend.
type Request struct {
	Method, Target string
	// Fields holds "name: value" lines with the name in lower case, sorted. The
	// gateway's own fields and those of framing are not among them.
	Fields []string
	Body   string
}

// A Route is a route the cases count on. Each leads to a backend that answers
// 200 to everything.
type Route struct {
	Name, Path  string
	StripPrefix bool
	FHIR        bool
	WebSocket   bool
	// Denied routes are those on which the policy must deny everything.
	Denied bool
}

// Routes are the routes the cases count on. On all but the denied one the
// policy must allow everything; any other path must be without a route.
func Routes() []Route {
	return []Route{
		{Name: "api", Path: "/api"},
		{Name: "stripped", Path: "/strip/this", StripPrefix: true},
		{Name: "denied", Path: "/denied", Denied: true},
		{Name: "socket", Path: "/socket", WebSocket: true},
		{Name: "fhir", Path: "/fhir", FHIR: true},
	}
}

// Load returns the cases for a listener that is called host and port.
func Load(host, port string) ([]Case, error) {
	names, err := fs.Glob(files, "cases/*.txt")
	if err != nil {
		return nil, err
	}
	var all []Case
	seen := map[string]string{}
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		cases, err := parse(strings.TrimPrefix(name, "cases/"), string(text), strings.NewReplacer("$host", host, "$HOST", strings.ToUpper(host), "$port", port))
		if err != nil {
			return nil, err
		}
		for _, c := range cases {
			if at, twice := seen[c.Name]; twice {
				return nil, fmt.Errorf("%s:%d: %q is in %s too", c.File, c.Line, c.Name, at)
			}
			seen[c.Name] = c.File
		}
		all = append(all, cases...)
	}
	return all, nil
}

// parse reads one file of cases.
func parse(name, text string, vars *strings.Replacer) ([]Case, error) {
	var cases []Case
	var c *Case
	fail := func(line int, format string, args ...any) ([]Case, error) {
		return nil, fmt.Errorf("%s:%d: %s", name, line, fmt.Sprintf(format, args...))
	}
	finish := func() error {
		if c == nil {
			return nil
		}
		if c.Why == "" || len(c.Send) == 0 || len(c.Statuses) == 0 {
			return fmt.Errorf("%s:%d: the case lacks a source, a request or an answer", name, c.Line)
		}
		cases = append(cases, *c)
		return nil
	}
	var ended bool // the last answer was given
	for i, line := range strings.Split(text, "\n") {
		n := i + 1
		if title, ok := strings.CutPrefix(line, "== "); ok {
			if err := finish(); err != nil {
				return nil, err
			}
			c, ended = &Case{Name: title, File: name, Line: n}, false
			continue
		}
		if line == "" || strings.HasPrefix(line, "# ") {
			continue
		}
		if c == nil {
			return fail(n, "text before the first case")
		}
		var err error
		switch {
		case strings.HasPrefix(line, ">|"):
			err = c.send(vars.Replace(strings.TrimPrefix(strings.TrimPrefix(line, ">|"), " ")), "")
		case line[0] == '>':
			err = c.send(vars.Replace(strings.TrimPrefix(line[1:], " ")), "\r\n")
		case line == "^":
			c.HalfClose = true
		case line[0] == '<':
			if ended {
				return fail(n, "an answer after the last one")
			}
			ended, err = c.answer(strings.TrimSpace(line[1:]))
		case strings.HasPrefix(line, "@="):
			if len(c.Arrives) == 0 {
				return fail(n, "a body without a request")
			}
			var b []byte
			b, err = expand(vars.Replace(strings.TrimPrefix(line[2:], " ")))
			c.Arrives[len(c.Arrives)-1].Body += string(b)
		case line[0] == '@':
			err = c.arrives(vars.Replace(strings.TrimSpace(line[1:])))
		default:
			if len(c.Send) > 0 {
				return fail(n, "unmarked text after the request")
			}
			c.Why += strings.TrimSpace(line) + "\n"
		}
		if err != nil {
			return fail(n, "%v", err)
		}
	}
	if err := finish(); err != nil {
		return nil, err
	}
	return cases, nil
}

func (c *Case) send(text, end string) error {
	b, err := expand(text)
	c.Send = append(append(c.Send, b...), end...)
	return err
}

// answer reads "400, closed".
func (c *Case) answer(text string) (last bool, err error) {
	code, rest, last := strings.Cut(text, ", ")
	status, err := strconv.Atoi(code)
	if err != nil {
		return false, fmt.Errorf("%q is not a status", code)
	}
	c.Statuses = append(c.Statuses, status)
	switch {
	case last && rest == "kept":
		c.Kept = true
	case last && rest != "closed":
		return false, fmt.Errorf("the connection is kept or closed, not %q", rest)
	}
	return last, nil
}

// arrives reads "GET /path" or "Field: value".
func (c *Case) arrives(text string) error {
	if name, value, ok := strings.Cut(text, ":"); ok && !strings.Contains(name, " ") && len(c.Arrives) > 0 {
		b, err := expand(strings.TrimSpace(value))
		r := &c.Arrives[len(c.Arrives)-1]
		r.Fields = append(r.Fields, strings.ToLower(name)+": "+string(b))
		return err
	}
	method, target, ok := strings.Cut(text, " ")
	if !ok {
		return fmt.Errorf("%q is neither a request nor a field", text)
	}
	b, err := expand(target)
	c.Arrives = append(c.Arrives, Request{Method: method, Target: string(b)})
	return err
}

// closing returns the index of the brace that closes the repetition s begins
// with, or -1.
func closing(s string) int {
	depth := 0
	for i := range len(s) {
		switch {
		case strings.HasPrefix(s[i:], "${"):
			depth++
		case s[i] == '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// expand makes bytes of a line's escapes and repetitions.
func expand(s string) ([]byte, error) {
	var out []byte
	for s != "" {
		switch {
		case strings.HasPrefix(s, "${"):
			end := closing(s)
			if end < 0 {
				return nil, fmt.Errorf("a repetition without an end")
			}
			inner := s[2:end]
			star := strings.LastIndexByte(inner, '*')
			if star < 0 {
				return nil, fmt.Errorf("a repetition without a count")
			}
			n, err := strconv.Atoi(inner[star+1:])
			if err != nil {
				return nil, err
			}
			b, err := expand(inner[:star])
			if err != nil {
				return nil, err
			}
			out = append(out, bytes.Repeat(b, n)...)
			s = s[end+1:]
		case s[0] == '\\':
			if len(s) < 2 {
				return nil, fmt.Errorf("a backslash at the end")
			}
			switch s[1] {
			case 'r':
				out = append(out, '\r')
			case 'n':
				out = append(out, '\n')
			case 't':
				out = append(out, '\t')
			case '\\':
				out = append(out, '\\')
			case 'x':
				if len(s) < 4 {
					return nil, fmt.Errorf("a short byte escape")
				}
				v, err := strconv.ParseUint(s[2:4], 16, 8)
				if err != nil {
					return nil, err
				}
				out = append(out, byte(v))
				s = s[2:]
			default:
				return nil, fmt.Errorf("unknown escape \\%c", s[1])
			}
			s = s[2:]
		default:
			out = append(out, s[0])
			s = s[1:]
		}
	}
	return out, nil
}
