package policy

import (
	"log/slog"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/breakglass"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// A Question is what is decided on: one transaction, in its surroundings. Any
// pointer may be nil, and the part of the input it stands for is then absent.
//
// The policy package reads a Question while it decides and keeps nothing of it
// but the pointer to the Device, which is never changed (see device.Record).
type Question struct {
	Device      *device.Record
	Session     *protocol.Session
	Route       *protocol.Route
	Transaction *protocol.Transaction
	// BreakGlass is the emergency grant that covers the transaction. Nil is none, and
	// so is one that is not in force Now.
	BreakGlass *breakglass.Grant
	// Now is the moment the question is asked. It feeds input.time, ages, and
	// the built-in time.now_ns.
	Now time.Time
}

// A Decision is the answer to a Question.
type Decision struct {
	// Allow is true only if a rule allowed, none denied, every obligation is one
	// the gateway can meet, and nothing failed.
	Allow bool
	// Reasons are the sentences of the allow rules that held, sorted.
	Reasons []string
	// Denials are the sentences of the deny rules that held, sorted. A deny that
	// no rule asked for (nothing allowed, or a fault) has one of ours here, so a
	// deny always says why.
	Denials []string
	// Obligations are what the gateway must also do. They are there only when
	// Allow is true, and nil if there are none.
	Obligations *protocol.Obligations
	// Revision names the policy set that decided.
	Revision string
	// Fault says what failed, if something did: where in the rules and how, and
	// never a value of the input. A Decision with a Fault denies.
	Fault string
	// Elapsed is the time it took to evaluate; 0 if it was remembered.
	Elapsed time.Duration

	// unchecked says that only the plan of the rules was asked (see planned).
	unchecked bool
}

// Limits of a policy set, and of one answer. Configuration can change the
// first three.
const (
	// DefaultMaxBytes bounds all files together. OPA's data takes about twenty
	// times its size in memory, and twice that while a set is replaced.
	DefaultMaxBytes = 16 << 20
	// DefaultMaxFiles bounds the number of files; the shipped set has about
	// forty.
	DefaultMaxFiles = 4096
	// DefaultTimeout bounds one evaluation. A good one takes well under a
	// millisecond, so that only a rule gone wrong meets it.
	DefaultTimeout = 100 * time.Millisecond

	// maxReasons and maxReasonLen bound what one decision adds to the audit log.
	maxReasons   = 64
	maxReasonLen = 512
	// maxObligations bounds what one decision asks the gateway to do.
	maxObligations = 32
)

// Options of [Load] and [NewEngine]. The zero value is the safe default.
type Options struct {
	// Location is the facility's time zone, for input.time. Nil means UTC.
	Location *time.Location
	// Logger receives what happens to the set in force. Nil discards.
	Logger *slog.Logger
	// Clock is the time; nil means time.Now. It measures and dates events; no
	// decision depends on it.
	Clock func() time.Time
	// Given is in force from an Engine's start in place of the directory (see
	// Engine.Put). Nil means the directory.
	Given *Source
	// OnLoad is called by an Engine after each attempt to load a changed set,
	// good or bad, in order, before the attempt's caller returns.
	OnLoad func(LoadEvent)
	// OnDistrust is called when a set's plan gave another decision than OPA's
	// evaluator, or could not be run, and is not asked any more: decisions cost more
	// from then on. It is called once a set, where it decides.
	OnDistrust func(revision string)

	// Timeout bounds one evaluation. Zero means DefaultTimeout.
	Timeout time.Duration
	// MaxBytes and MaxFiles bound the set. Zero means the defaults.
	MaxBytes int64
	MaxFiles int
	// CacheEntries is how many decisions a set remembers. Zero means
	// DefaultCacheEntries, less than zero none. A set that reads the clock or has
	// other such rules (see Set.Uncacheable) remembers none in any case.
	CacheEntries int
	// Settle is how long an Engine waits after a file changed for more changes
	// to follow. Zero means DefaultSettle.
	Settle time.Duration
	// Poll is how often an Engine compares the directory's contents even when
	// the system reported no change. Zero means DefaultPoll.
	Poll time.Duration
}

func (o Options) withDefaults() Options {
	if o.Location == nil {
		o.Location = time.UTC
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.MaxFiles <= 0 {
		o.MaxFiles = DefaultMaxFiles
	}
	if o.CacheEntries == 0 {
		o.CacheEntries = DefaultCacheEntries
	}
	if o.Settle <= 0 {
		o.Settle = DefaultSettle
	}
	if o.Poll <= 0 {
		o.Poll = DefaultPoll
	}
	return o
}
