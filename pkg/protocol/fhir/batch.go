package fhir

import (
	"errors"
	"fmt"
	"net/http"
)

// Split returns the batch without the entries that are denied, for the backend,
// and how many are left. denied has an element for each entry, nil for an allowed
// one. A backend that is sent it must be asked for JSON, or [Interaction.Join]
// can not read its answer. Split panics unless the interaction is a batch that
// was read: a transaction is denied as a whole.
func (i *Interaction) Split(denied []*Issue) (body []byte, rest int) {
	i.mustBatch(denied)
	d := &i.body
	body = append(body, '{')
	d.kids(0, func(k int) {
		n := &d.nodes[k]
		if len(body) > 1 {
			body = append(body, ',')
		}
		body = appendString(body, string(d.data[n.name:n.nameEnd]))
		body = append(body, ':')
		if string(d.data[n.name:n.nameEnd]) != "entry" {
			body = d.appendNode(body, k)
			return
		}
		body = append(body, '[')
		at := 0
		d.kids(k, func(e int) {
			if denied[at] == nil {
				if rest > 0 {
					body = append(body, ',')
				}
				rest++
				body = d.appendNode(body, e)
			}
			at++
		})
		body = append(body, ']')
	})
	return append(body, '}'), rest
}

func (i *Interaction) mustBatch(denied []*Issue) {
	if i.code != codeBatch || !i.read || len(denied) != len(i.entries) {
		panic("fhir: not a batch that was read, or denials of another one")
	}
}

// errAnswer is wrapped by errors for answers that can not be joined.
var errAnswer = errors.New("the backend's answer to a batch can not be read")

// Limits of a backend's answer, which is trusted more than a device.
const (
	answerDepth = 256
	answerNodes = 1 << 22
)

// Join returns the answer to a batch: the backend's answer to what
// [Interaction.Split] left, with a 403 and an OperationOutcome in the place of
// each denied entry. answer is nil if nothing was left to send. An error says
// that the answer is not the batch-response it should be.
func (i *Interaction) Join(denied []*Issue, answer []byte) ([]byte, error) {
	i.mustBatch(denied)
	rest := 0
	for _, s := range denied {
		if s == nil {
			rest++
		}
	}
	if answer == nil {
		if rest > 0 {
			return nil, fmt.Errorf("%w: there is none", errAnswer)
		}
		answer = []byte(`{"resourceType":"Bundle","type":"batch-response","entry":[]}`)
	}
	d, f := readJSON(answer, &Limits{Depth: answerDepth, Nodes: answerNodes})
	if f != nil {
		return nil, fmt.Errorf("%w: %w", errAnswer, f)
	}
	if d.text(d.member(0, "resourceType")) != "Bundle" || d.text(d.member(0, "type")) != "batch-response" {
		return nil, fmt.Errorf("%w: it is no batch-response", errAnswer)
	}
	var entries []int
	if list := d.member(0, "entry"); d.kind(list) == kindArray {
		d.kids(list, func(e int) { entries = append(entries, e) })
	}
	if len(entries) != rest {
		return nil, fmt.Errorf("%w: it answers %d entries of %d", errAnswer, len(entries), rest)
	}
	out := []byte{'{'}
	d.kids(0, func(k int) {
		n := &d.nodes[k]
		if name := d.data[n.name:n.nameEnd]; string(name) != "entry" {
			out = append(appendString(out, string(name)), ':')
			out = append(d.appendNode(out, k), ',')
		}
	})
	out = append(out, `"entry":[`...)
	for k, s := range denied {
		if k > 0 {
			out = append(out, ',')
		}
		if s == nil {
			out = d.appendNode(out, entries[0])
			entries = entries[1:]
			continue
		}
		out = fmt.Appendf(out, `{"response":{"status":"%d %s","outcome":`, http.StatusForbidden, http.StatusText(http.StatusForbidden))
		out = append(s.appendJSON(out), "}}"...)
	}
	return append(out, "]}"...), nil
}
