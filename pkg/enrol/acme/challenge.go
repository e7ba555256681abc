package acme

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/enrol"
)

// tryTime bounds one challenge: the name, the connection and the answer.
const tryTime = 10 * time.Second

func tooBusy() *fault {
	return faulty(rateLimited, http.StatusTooManyRequests, enrol.Busy, "the gateway is at this order already, or at too many others; try again")
}

// sub names a part of an order by its place.
func (o *order) sub(place ...int) string {
	name := o.ID
	for _, i := range place {
		name += "-" + strconv.Itoa(i)
	}
	return name
}

// authorization finds the authorization that a path names, perhaps with a
// challenge behind it.
func (c *call) authorization() (o *order, place []int, f *fault) {
	o, rest, f := c.order()
	if f != nil {
		return nil, nil, f
	}
	for part := range strings.SplitSeq(rest, "-") {
		i, err := strconv.Atoi(part)
		if err != nil || strconv.Itoa(i) != part || i < 0 {
			return nil, nil, notThere()
		}
		place = append(place, i)
	}
	if place[0] >= len(o.Authorizations) {
		return nil, nil, notThere()
	}
	return o, place, nil
}

type shownChallenge struct {
	Type      string    `json:"type"`
	URL       string    `json:"url"`
	Status    status    `json:"status"`
	Token     string    `json:"token"`
	Validated time.Time `json:"validated,omitzero"`
	Error     *problem  `json:"error,omitempty"`
}

func (c *call) shown(o *order, place ...int) shownChallenge {
	ch := o.Authorizations[place[0]].Challenges[place[1]]
	return shownChallenge{ch.Type, c.base() + challengePath + o.sub(place...), ch.Status, ch.Token, ch.Validated, ch.Error}
}

// showAuthorization is RFC 8555 §7.5.
func (c *call) showAuthorization() *fault {
	o, place, f := c.authorization()
	if f != nil {
		return f
	}
	if len(place) != 1 {
		return notThere()
	}
	if f := c.asGet(); f != nil {
		return f // deactivating one is ending the order, which ends by itself
	}
	a := &o.Authorizations[place[0]]
	st := a.Status
	if o.status(c.s.clock()) == invalid && st == pending {
		st = invalid
	}
	out := struct {
		Identifier identifier       `json:"identifier"`
		Status     status           `json:"status"`
		Expires    time.Time        `json:"expires"`
		Challenges []shownChallenge `json:"challenges"`
	}{Identifier: a.Identifier, Status: st, Expires: o.expires().Truncate(time.Second)}
	for i := range a.Challenges {
		out.Challenges = append(out.Challenges, c.shown(o, place[0], i))
	}
	c.answer(http.StatusOK, "application/json", out)
	return nil
}

// challenge is RFC 8555 §7.5.1: the client is ready to be asked. With an empty
// payload it reads what became of it.
func (c *call) challenge() *fault {
	o, place, f := c.authorization()
	if f != nil {
		return f
	}
	if len(place) != 2 || place[1] >= len(o.Authorizations[place[0]].Challenges) {
		return notThere()
	}
	if len(c.payload) > 0 {
		if o, f = c.try(o, place); f != nil {
			return f
		}
	}
	c.w.Header().Add("Link", "<"+c.base()+authzPath+o.sub(place[0])+`>;rel="up"`)
	c.answer(http.StatusOK, "application/json", c.shown(o, place...))
	return nil
}

// try tries a challenge, once: what fails makes the order worth nothing.
func (c *call) try(o *order, place []int) (*order, *fault) {
	asked, f := c.asked()
	if f != nil {
		return nil, f
	}
	t := c.turn(o)
	if !c.s.busy.take(c.Context(), t) {
		return nil, tooBusy()
	}
	defer c.s.busy.leave(t)
	o, _, f = c.authorization() // as it is now that nobody else is at it
	if f != nil {
		return nil, f
	}
	a := &o.Authorizations[place[0]]
	ch := &a.Challenges[place[1]]
	if a.Status != pending || o.status(c.s.clock()) != pending {
		return o, nil
	}
	if f := c.mayHave(a.Identifier, len(o.Authorizations)); f != nil {
		return nil, f
	}
	ctx, cancel := context.WithTimeout(c.Context(), tryTime)
	defer cancel()
	switch ch.Type {
	case http01:
		f = c.s.tryHTTP(ctx, c.s.serverOf(c.device), a.Identifier.Value, ch.Token, c.key.authorization(ch.Token))
	case tlsALPN01:
		f = c.s.tryTLS(ctx, c.s.serverOf(c.device), a.Identifier.Value, c.key.authorization(ch.Token))
	case deviceAttest:
		a.Attested, f = c.s.attested(c.s.attestationOf(c.record), c.record, asked["attObj"], a.Identifier.Value, ch.Token, c.key.authorization(ch.Token))
	}
	if f != nil && f.kind == serverInternal {
		return nil, f
	}
	ch.Status, a.Status = valid, valid
	if f == nil {
		ch.Validated = c.s.clock().UTC().Truncate(time.Second)
	} else {
		f.about = &a.Identifier
		ch.Status, a.Status, ch.Error = invalid, invalid, c.note(f)
	}
	if err := c.s.change(c.Context(), o); err != nil {
		return nil, ours(err)
	}
	return o, nil
}
