package audit

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// A record lies in the buffer as tokens: the JSON it will be, without the cost
// of writing JSON. Copying strings behind one-byte marks takes the request about
// a third of what escaping them would, and leaves the pseudonyms, which cost an
// HMAC each, to the writer. Each record is preceded by its length, so that the
// writer's decoder can be strict about ends.
type op byte

const (
	opKey    op = iota + 1 // a name known here: one byte, index into names
	opName                 // a name of the caller's: length, bytes
	opString               // length, bytes
	opSecret               // length, bytes; becomes a pseudonym
	opInt                  // zigzag varint
	opTrue
	opFalse
	opNull
	opOpen // {
	opClose
	opOpenList // [
	opCloseList
	opTime  // 8 bytes, nanoseconds since 1970
	opAddr  // length, bytes of netip.AddrPort.MarshalBinary
	opFixed // length, JSON members as they are
	opRaw   // length, JSON as it is, wherever it stands
)

// A name is the index of a field name that every record may have.
type name byte

const (
	nTime name = iota
	nKind
	nEvent
	nDecision
	nID
	nAllow
	nCause
	nReasons
	nDenials
	nObligations
	nRevision
	nFault
	nNS
	nDevice
	nClass
	nFingerprint
	nDeviceStatus
	nSession
	nListener
	nRemote
	nTLS
	nVersion
	nCipher
	nGroup
	nSNI
	nALPN
	nResumed
	nRoute
	nBackend
	nEnvironment
	nOperator
	nRequest
	nProtocol
	nAction
	nResource
	nBytes
	nOf
	nPart
	nDetail
	nError
	nOmitted
	nWouldDeny
	nOnFailure
	nDeviceRevision
	nAge
	nRouteClass
	nLane
	nDevicePatients
	nTags
	nBreakGlass
	nReason
	nUntil
)

// names are written as they stand here; docs/audit.md lists them.
var names = [...]string{
	nTime: "time", nKind: "kind", nEvent: "event",
	nDecision: "decision", nID: "id", nAllow: "allow", nCause: "cause", nReasons: "reasons", nDenials: "denials",
	nObligations: "obligations", nRevision: "revision", nFault: "fault", nNS: "ns",
	nDevice: "device", nClass: "class", nFingerprint: "fingerprint", nDeviceStatus: "device_status",
	nSession: "session", nListener: "listener", nRemote: "remote",
	nTLS: "tls", nVersion: "version", nCipher: "cipher", nGroup: "group", nSNI: "sni", nALPN: "alpn", nResumed: "resumed",
	nRoute: "route", nBackend: "backend", nEnvironment: "environment", nOperator: "operator",
	nRequest: "request", nProtocol: "protocol", nAction: "action", nResource: "resource", nBytes: "bytes", nOf: "of", nPart: "part",
	nDetail: "detail", nError: "error", nOmitted: "omitted", nWouldDeny: "would_deny", nOnFailure: "on_failure", nDeviceRevision: "device_revision", nAge: "age_s",
	nRouteClass: "route_class", nLane: "quarantine_lane", nDevicePatients: "device_patients", nTags: "tags",
	nBreakGlass: "break_glass", nReason: "reason", nUntil: "until",
}

// appendRecord appends r's tokens. Without facts it leaves out what only an
// adapter or an event knows, and says so.
func appendRecord(b []byte, r *Record, now time.Time, facts bool) []byte {
	b = append(b, byte(opKey), byte(nTime), byte(opTime))
	b = binary.LittleEndian.AppendUint64(b, uint64(now.UnixNano()))
	b = appendField(b, nKind, string(r.Kind))
	b = appendField(b, nEvent, r.Event)
	if d := r.Decision; d != nil {
		b = appendDecision(b, d)
	}
	if r.Fixed.json != nil {
		b = append(binary.AppendUvarint(append(b, byte(opFixed)), uint64(len(r.Fixed.json))), r.Fixed.json...)
	} else {
		b = appendFixed(b, r)
	}
	if len(r.DevicePatients) > 0 {
		b = append(b, byte(opKey), byte(nDevicePatients), byte(opOpenList))
		for _, p := range r.DevicePatients {
			b = appendText(b, opSecret, p)
		}
		b = append(b, byte(opCloseList))
	}
	if age := int64(r.Age / time.Second); age > 0 {
		b = appendNumber(b, nAge, age)
	}
	if g := r.BreakGlass; g != nil {
		b = append(b, byte(opKey), byte(nBreakGlass), byte(opOpen))
		b = appendField(b, nID, g.ID)
		b = appendField(b, nReason, g.Reason)
		b = appendField(b, nUntil, g.Until.UTC().Format(time.RFC3339))
		b = append(b, byte(opClose))
	}
	b = appendField(b, nOperator, r.Operator)
	switch {
	case r.Transaction == nil:
	case facts && r.FixedRequest.tokens != nil:
		b = append(b, r.FixedRequest.tokens...)
	default:
		b = appendRequest(b, r.Transaction, facts)
	}
	if facts && len(r.Detail) > 0 {
		b = append(b, byte(opKey), byte(nDetail), byte(opOpen))
		b = appendFields(b, r.Detail)
		b = append(b, byte(opClose))
	}
	b = appendField(b, nError, r.Error)
	if !facts {
		b = append(b, byte(opKey), byte(nOmitted), byte(opTrue))
	}
	return b
}

// appendRequest appends a transaction.
func appendRequest(b []byte, tx *protocol.Transaction, facts bool) []byte {
	b = append(b, byte(opKey), byte(nRequest), byte(opOpen))
	b = appendField(b, nProtocol, tx.Protocol)
	b = appendField(b, nAction, tx.Action)
	b = appendField(b, nResource, tx.Resource)
	if tx.Bytes >= 0 {
		b = appendNumber(b, nBytes, tx.Bytes)
	}
	if tx.Of != "" {
		b = appendField(b, nOf, tx.Of)
		b = appendNumber(b, nPart, int64(tx.Part))
	}
	if facts {
		b = appendFields(b, tx.Facts)
	}
	return append(b, byte(opClose))
}

// tokenLen returns how many bytes the first token takes, or -1.
func tokenLen(t []byte) int {
	switch op(t[0]) {
	case opKey:
		return 2
	case opTime:
		return 9
	case opInt:
		if _, n := binary.Varint(t[1:]); n > 0 {
			return 1 + n
		}
		return -1
	case opName, opString, opSecret, opAddr, opFixed, opRaw:
		if _, n := text(t[1:]); n >= 0 {
			return 1 + n
		}
		return -1
	}
	return 1
}

// appendFixed appends what stays the same from one transaction of a session to
// the next on the same route.
func appendFixed(b []byte, r *Record) []byte {
	b = appendField(b, nDevice, r.Device)
	b = appendField(b, nClass, r.Class)
	b = appendField(b, nFingerprint, r.Fingerprint)
	b = appendField(b, nDeviceStatus, r.DeviceStatus)
	if r.DeviceRevision > 0 {
		b = appendNumber(b, nDeviceRevision, int64(r.DeviceRevision))
	}
	b = appendField(b, nSession, r.Session)
	b = appendField(b, nListener, r.Listener)
	if r.Remote.IsValid() {
		b = append(b, byte(opKey), byte(nRemote), byte(opAddr))
		b = appendAddr(b, r.Remote)
	}
	if t := r.TLS; t != nil {
		b = append(b, byte(opKey), byte(nTLS), byte(opOpen))
		b = appendField(b, nVersion, t.Version)
		b = appendField(b, nCipher, t.Cipher)
		b = appendField(b, nGroup, t.Group)
		b = appendField(b, nSNI, t.SNI)
		b = appendField(b, nALPN, t.ALPN)
		b = appendBool(append(b, byte(opKey), byte(nResumed)), t.Resumed)
		b = append(b, byte(opClose))
	}
	b = appendField(b, nRoute, r.Route)
	b = appendField(b, nBackend, r.Backend)
	b = appendField(b, nEnvironment, r.Environment)
	b = appendField(b, nRouteClass, r.RouteClass)
	if r.Lane {
		b = append(b, byte(opKey), byte(nLane), byte(opTrue))
	}
	return b
}

func appendDecision(b []byte, d *Decision) []byte {
	b = append(b, byte(opKey), byte(nDecision), byte(opOpen))
	b = appendField(b, nID, d.ID)
	b = appendBool(append(b, byte(opKey), byte(nAllow)), d.Allow)
	if d.WouldDeny {
		b = append(b, byte(opKey), byte(nWouldDeny), byte(opTrue))
	}
	if d.OnFailure {
		b = append(b, byte(opKey), byte(nOnFailure), byte(opTrue))
	}
	b = appendField(b, nCause, d.Cause)
	b = appendStrings(b, nReasons, d.Reasons)
	b = appendStrings(b, nDenials, d.Denials)
	if d.Obligations.Kind() != protocol.KindNull {
		b = appendValue(append(b, byte(opKey), byte(nObligations)), d.Obligations)
	}
	b = appendStrings(b, nTags, d.Tags)
	b = appendField(b, nRevision, d.Revision)
	b = appendField(b, nFault, d.Fault)
	if d.Elapsed != 0 {
		b = appendNumber(b, nNS, d.Elapsed.Nanoseconds())
	}
	return append(b, byte(opClose))
}

// appendField appends a named text, or nothing if it is empty.
func appendField(b []byte, n name, s string) []byte {
	if s == "" {
		return b
	}
	return appendText(append(b, byte(opKey), byte(n)), opString, s)
}

func appendText(b []byte, o op, s string) []byte {
	if len(s) < 0x80 { // one byte of varint, by far the most common
		b = append(b, byte(o), byte(len(s)))
	} else {
		b = binary.AppendUvarint(append(b, byte(o)), uint64(len(s)))
	}
	return append(b, s...)
}

func appendNumber(b []byte, n name, v int64) []byte {
	return binary.AppendVarint(append(b, byte(opKey), byte(n), byte(opInt)), v)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, byte(opTrue))
	}
	return append(b, byte(opFalse))
}

func appendStrings(b []byte, n name, ss []string) []byte {
	if len(ss) == 0 {
		return b
	}
	b = append(b, byte(opKey), byte(n), byte(opOpenList))
	for _, s := range ss {
		b = appendText(b, opString, s)
	}
	return append(b, byte(opCloseList))
}

func appendFields(b []byte, fs []protocol.Field) []byte {
	for i := range fs {
		b = appendText(b, opName, fs[i].Name)
		b = appendValue(b, fs[i].Value)
	}
	return b
}

func appendValue(b []byte, v protocol.Value) []byte {
	switch v.Kind() {
	case protocol.KindBool:
		return appendBool(b, v.True())
	case protocol.KindInt:
		return binary.AppendVarint(append(b, byte(opInt)), v.Number())
	case protocol.KindString:
		if v.IsSensitive() {
			return appendText(b, opSecret, v.Text())
		}
		return appendText(b, opString, v.Text())
	case protocol.KindList:
		b = append(b, byte(opOpenList))
		for _, e := range v.Elems() {
			b = appendValue(b, e)
		}
		return append(b, byte(opCloseList))
	case protocol.KindObject:
		b = appendFields(append(b, byte(opOpen)), v.Fields())
		return append(b, byte(opClose))
	default:
		return append(b, byte(opNull))
	}
}

func appendAddr(b []byte, a netip.AddrPort) []byte {
	at := len(b)
	b = append(b, 0)
	b, err := a.AppendBinary(b)
	if err != nil || len(b)-at-1 > 0xff { // a zone longer than any interface name
		return append(b[:at], 0)
	}
	b[at] = byte(len(b) - at - 1)
	return b
}
