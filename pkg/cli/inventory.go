package cli

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

const (
	// maxInventory bounds a file, maxRows its rows: ten times the largest hospital.
	maxInventory = 256 << 20
	maxRows      = 1_000_000
)

// An inventory is a CSV file and how its columns are to be read.
type inventory struct {
	file      string
	maps      []string
	class     string
	separator string
}

// A table is a file of rows that is not cut short where it is too large: rows past
// the limit would be left out without a word, and the last before it halved.
type table struct {
	io.Reader
	left int64
}

func (t *table) Read(b []byte) (int, error) {
	if t.left <= 0 {
		return 0, fmt.Errorf("larger than %d MiB: do it in parts", maxInventory>>20)
	}
	n, err := t.Reader.Read(b[:min(int64(len(b)), t.left)])
	t.left -= int64(n)
	return n, err
}

// openTable begins to read a table. comma says what is between its columns, when it
// has seen how the table begins.
func openTable(r io.Reader, comma func(head []byte) (rune, error)) (*csv.Reader, error) {
	br := bufio.NewReader(&table{r, maxInventory + 1})
	if mark, err := br.Peek(3); err == nil && string(mark) == "\xef\xbb\xbf" {
		_, _ = br.Discard(3) // spreadsheets write one
	}
	head, err := br.Peek(br.Size())
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	cr := csv.NewReader(br)
	cr.Comma, err = comma(head)
	return cr, err
}

// An inventoryRow is one row: a device, or why it is none.
type inventoryRow struct {
	line int
	rec  *device.Record
	err  error
}

// inventoryFields are the fields that columns can be; tag.NAME is another.
var inventoryFields = []string{"id", "class", "manufacturer", "model", "serial", "udi", "location", "owner", "life_critical"}

const tagField = "tag."

// read reads all rows. The error is about the file as a whole.
func (in *inventory) read(r io.Reader) ([]inventoryRow, error) {
	cr, err := openTable(r, in.comma)
	if err != nil {
		return nil, err
	}
	names, err := cr.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("it is empty; the first line names the columns")
	}
	if err != nil {
		return nil, err
	}
	fields, err := in.columns(names)
	if err != nil {
		return nil, err
	}
	var rows []inventoryRow
	seen := map[string]int{}
	for {
		values, err := cr.Read()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if len(rows) == maxRows {
			return nil, fmt.Errorf("more than %d rows", maxRows)
		}
		var row inventoryRow
		var bad *csv.ParseError
		switch {
		case errors.As(err, &bad):
			row = inventoryRow{line: bad.StartLine, err: fmt.Errorf("not a row: %w", bad.Err)}
		case err != nil:
			return nil, err
		default:
			row.line, _ = cr.FieldPos(0)
			row.rec, row.err = in.device(fields, values)
		}
		if row.err == nil {
			if first, twice := seen[row.rec.ID]; twice {
				row.err = fmt.Errorf("the id %s is in line %d already", row.rec.ID, first)
			} else {
				seen[row.rec.ID] = row.line
			}
		}
		rows = append(rows, row)
	}
}

// comma returns what is between columns: as asked for, or what is likely.
func (in *inventory) comma(head []byte) (rune, error) {
	switch r := []rune(in.separator); {
	case in.separator == "tab" || in.separator == `\t`:
		return '\t', nil
	case len(r) == 1 && r[0] != '"' && r[0] != '\r' && r[0] != '\n':
		return r[0], nil
	case in.separator != "":
		return 0, usagef("--separator: %q is not one character", in.separator)
	}
	return likelyComma(head)
}

// likelyComma returns whatever the first line has most of.
func likelyComma(head []byte) (rune, error) {
	line, _, _ := strings.Cut(string(head), "\n")
	best := ','
	for _, c := range []rune{';', '\t'} {
		if strings.Count(line, string(c)) > strings.Count(line, string(best)) {
			best = c
		}
	}
	return best, nil
}

// columns returns the field of each column, "" for none.
func (in *inventory) columns(names []string) ([]string, error) {
	mapped := map[string]string{}
	for _, m := range in.maps {
		column, field, ok := strings.Cut(m, "=")
		column, field = strings.TrimSpace(column), strings.TrimSpace(field)
		if !ok || column == "" || !isField(field) {
			hint := ""
			if near := config.Nearest(field, inventoryFields); near != "" {
				hint = fmt.Sprintf("; did you mean %q?", near)
			}
			return nil, usagef("--map: %q is not column=field%s", m, hint)
		}
		if !slices.ContainsFunc(names, func(n string) bool { return strings.TrimSpace(n) == column }) {
			return nil, usagef("--map: there is no column %q; there are %s", column, shown(names))
		}
		mapped[column] = field
	}
	out := make([]string, len(names))
	for i, name := range names {
		name = strings.TrimSpace(name)
		field, ok := mapped[name]
		if plain := strings.ReplaceAll(strings.ToLower(name), " ", "_"); !ok && isField(plain) {
			field = plain
		}
		if field != "" && slices.Contains(out, field) {
			return nil, fmt.Errorf("two columns are %s; --map says which is meant", field)
		}
		out[i] = field
	}
	if !slices.Contains(out, "id") {
		return nil, fmt.Errorf("no column is the id; name one with --map 'column=id' (there are %s)", shown(names))
	}
	if in.class == "" && !slices.Contains(out, "class") {
		return nil, fmt.Errorf("no column is the class; name one with --map 'column=class', or one for all with --class")
	}
	return out, nil
}

// shown lists the columns of a file that may hold anything.
func shown(names []string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, strings.Join(names, ", "))
}

func isField(s string) bool {
	return slices.Contains(inventoryFields, s) || strings.HasPrefix(s, tagField) && len(s) > len(tagField)
}

// device makes a record of a row.
func (in *inventory) device(fields, values []string) (*device.Record, error) {
	rec := &device.Record{Class: in.class}
	to := map[string]*string{
		"id": &rec.ID, "manufacturer": &rec.Manufacturer, "model": &rec.Model, "serial": &rec.Serial, "udi": &rec.UDI,
		"location": &rec.Location, "owner": &rec.Owner,
	}
	for i, field := range fields {
		v := strings.TrimSpace(values[i])
		tag, isTag := strings.CutPrefix(field, tagField)
		switch {
		case field == "" || v == "":
		case field == "class":
			rec.Class = v
		case field == "life_critical":
			switch strings.ToLower(v) {
			case "true", "yes", "y", "1":
				rec.LifeCritical = true
			case "false", "no", "n", "0":
			default:
				return nil, fmt.Errorf("life_critical: %q is neither yes nor no", v)
			}
		case isTag:
			if rec.Tags == nil {
				rec.Tags = map[string]string{}
			}
			rec.Tags[tag] = v
		default:
			*to[field] = v
		}
	}
	return rec, rec.Valid()
}
