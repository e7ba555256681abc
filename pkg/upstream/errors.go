package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
)

// Errors a caller tells apart, each wrapped with the cause. Any other error of
// RoundTrip is the request's own: its context's end, or its body's error.
//
// None holds a byte of a request or of an answer, which may be about a patient.
var (
	// ErrUnavailable says that no address could be connected to, or that none
	// proved to be the backend. Nothing of the request was sent.
	ErrUnavailable = errors.New("backend unavailable")
	// ErrTimeout says that the backend did not take the request or did not
	// answer in time.
	ErrTimeout = errors.New("backend timed out")
	// ErrAnswer says that the backend ended the connection instead of answering,
	// or answered what is not HTTP. The request may have been carried out.
	ErrAnswer = errors.New("backend gave no valid answer")
)

// errFull says that a request waited for a connection until its time was over.
var errFull = errors.New("all connections it may have are in use")

// A busyError is no sign against an address: it is we who have too much to do, or
// too many who want something of it.
type busyError struct{ error }

func (e busyError) Unwrap() error { return e.error }

// What is said of an answer in place of the error that quotes it.
var (
	errEnded     = errors.New("it ended the connection")
	errMalformed = errors.New("it can not be understood")
)

// classify wraps an error of an attempt with what a caller decides on. sent says
// that a connection was there, so that the request may have begun.
func classify(name string, sent bool, err error) error {
	switch {
	case !sent:
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, name, err)
	case isTimeout(err):
		return fmt.Errorf("%w: %s: %w", ErrTimeout, name, told(err))
	}
	return fmt.Errorf("%w: %s: %w", ErrAnswer, name, told(err))
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// told returns what may be told of an error: net/http and its HTTP/2 quote in
// their errors what they could not read, so only errors known not to are kept.
func told(err error) error {
	var op *net.OpError
	switch {
	case errors.As(err, &op):
		return op
	case isTimeout(err), errors.Is(err, context.Canceled), errors.Is(err, errFull):
		return err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errBegun),
		// The transport has no exported name for a connection that the backend
		// closed while a request was on its way.
		strings.Contains(err.Error(), "server closed idle connection"):
		return errEnded
	}
	return errMalformed
}
