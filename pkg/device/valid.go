package device

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of what a record may hold. They are far above what is met in practice
// and keep a record small enough to be read whole wherever it is needed.
const (
	maxID           = 64
	maxText         = 256
	maxTags         = 32
	maxCertificates = 64
)

// ErrInvalid is wrapped by the errors for records that break a rule.
var ErrInvalid = errors.New("invalid")

// ValidID reports whether id may name a device: 1 to 64 of a–z, 0–9, '-', '_'
// and '.', beginning with a letter or digit, without "..". Such an id is the
// same in a URI, a file name and a log line, and no two ids differ only in what
// some system folds.
func ValidID(id string) error { return validName("device id", id) }

// ValidClass reports whether c may name a class; the rule is that of ids.
func ValidClass(c string) error { return validName("class", c) }

func validName(what, s string) error {
	if s == "" || len(s) > maxID {
		return fmt.Errorf("%w %s: it needs 1 to %d characters", ErrInvalid, what, maxID)
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case i > 0 && (c == '-' || c == '_' || c == '.'):
		default:
			return fmt.Errorf("%w %s %q: only a-z, 0-9, '-', '_' and '.' after the first character", ErrInvalid, what, s)
		}
	}
	if strings.Contains(s, "..") {
		return fmt.Errorf("%w %s %q: \"..\" is not allowed", ErrInvalid, what, s)
	}
	return nil
}

// validText reports whether a descriptive field is short, printable UTF-8.
func validText(what, s string) error {
	if len(s) > maxText {
		return fmt.Errorf("%w %s: longer than %d bytes", ErrInvalid, what, maxText)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("%w %s: it holds characters that can not be printed", ErrInvalid, what)
	}
	return nil
}

// Valid reports whether the registry would take the record, as far as that does
// not depend on others.
func (r *Record) Valid() error { return r.validate() }

// validate checks everything about a record that does not depend on others.
func (r *Record) validate() error {
	if err := ValidID(r.ID); err != nil {
		return err
	}
	if err := ValidClass(r.Class); err != nil {
		return err
	}
	for _, f := range [...]struct{ what, s string }{
		{"manufacturer", r.Manufacturer}, {"model", r.Model}, {"serial", r.Serial}, {"udi", r.UDI},
		{"location", r.Location}, {"owner", r.Owner}, {"status reason", r.StatusReason}, {"firmware", r.Posture.Firmware},
	} {
		if err := validText(f.what, f.s); err != nil {
			return err
		}
	}
	if len(r.Tags) > maxTags {
		return fmt.Errorf("%w tags: more than %d", ErrInvalid, maxTags)
	}
	for k, v := range r.Tags {
		if err := validName("tag", k); err != nil {
			return err
		}
		if err := validText("tag "+k, v); err != nil {
			return err
		}
	}
	if r.Posture.MaxCVSS < 0 || r.Posture.MaxCVSS > 10 || r.Posture.MaxCVSS != r.Posture.MaxCVSS {
		return fmt.Errorf("%w max_cvss: it goes from 0 to 10", ErrInvalid)
	}
	if err := r.validLoan(); err != nil {
		return err
	}
	if err := r.validPatients(); err != nil {
		return err
	}
	if len(r.Certificates) > maxCertificates {
		return fmt.Errorf("%w certificates: more than %d", ErrInvalid, maxCertificates)
	}
	for i, c := range r.Certificates {
		if err := validText("certificate serial", c.Serial); err != nil {
			return err
		}
		if err := validText("reason of a revocation", c.RevokedFor); err != nil {
			return err
		}
		if r.Certificate(c.Fingerprint) != &r.Certificates[i] {
			return fmt.Errorf("%w certificates: one is there twice", ErrInvalid)
		}
		if len(c.Fingerprint) != 64 || strings.Trim(c.Fingerprint, "0123456789abcdef") != "" {
			return fmt.Errorf("%w certificate: its fingerprint is not a SHA-256 in lower-case hex", ErrInvalid)
		}
		if c.Key != "" && (len(c.Key) != 64 || strings.Trim(c.Key, "0123456789abcdef") != "") {
			return fmt.Errorf("%w certificate: its key is not a SHA-256 in lower-case hex", ErrInvalid)
		}
		if c.Way != "" {
			if err := validName("way", c.Way); err != nil {
				return err
			}
		}
	}
	return nil
}
