package audit

import (
	"bufio"
	"errors"
	"io"
	"os"
)

// maxLine bounds a line that is read back. JSON can be six times as long as the
// text in it; what is longer is no line of ours.
const maxLine = 8 * MaxRecord

// errTorn: the file ends in the middle of a line.
var errTorn = errors.New("the file ends in the middle of a line")

// errLong: a line is longer than any that is written.
var errLong = errors.New("a line is too long")

// lines reads a segment line by line, and knows where it is.
type lines struct {
	r      *bufio.Reader
	long   []byte // a line longer than r's buffer
	number int    // lines read so far, from where reading began
	offset int64  // where the line last returned begins
	next   int64  // where the next one does
}

func newLines(r io.Reader, offset int64) *lines {
	return &lines{r: bufio.NewReaderSize(r, 64<<10), offset: offset, next: offset}
}

// read returns the next line without its line break, valid until the next call.
// It returns io.EOF at the end, and errTorn with what is left if the last line
// has no line break.
func (l *lines) read() ([]byte, error) {
	l.offset = l.next
	b, err := l.r.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		l.long = l.long[:0]
		for err == bufio.ErrBufferFull {
			if l.long = append(l.long, b...); len(l.long) > maxLine {
				return nil, errLong
			}
			b, err = l.r.ReadSlice('\n')
		}
		l.long = append(l.long, b...)
		b = l.long
	}
	l.next += int64(len(b))
	if err == io.EOF && len(b) > 0 {
		return b, errTorn
	}
	if err != nil {
		return nil, err
	}
	l.number++
	return b[:len(b)-1], nil
}

// openAt opens a file to be read from offset on.
func openAt(path string, offset int64) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
