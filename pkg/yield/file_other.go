//go:build !linux

package yield

import "os"

// A File is an open file. Elsewhere than on Linux, Sync is os.File's.
type File struct{ *os.File }

// NewFile takes f over.
func NewFile(f *os.File) *File { return &File{f} }
