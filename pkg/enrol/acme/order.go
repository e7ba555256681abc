package acme

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// The statuses of RFC 8555 §7.1.6 that are met here. Nothing is processing: a
// challenge is tried, and a certificate issued, while the request waits.
type status string

const (
	pending status = "pending"
	ready   status = "ready"
	valid   status = "valid"
	invalid status = "invalid"
)

// The kinds of identifiers (RFC 8555 §9.7.7) and of challenges (§9.7.8).
const (
	dns       = "dns"
	permanent = "permanent-identifier"

	http01       = "http-01"
	tlsALPN01    = "tls-alpn-01"
	deviceAttest = "device-attest-01"
)

// mostNames bounds the names of an order.
const mostNames = 20

type identifier struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// An order is a certificate that an account is on its way to.
type order struct {
	ID             string          `json:"id"`
	Account        string          `json:"account"`
	Created        time.Time       `json:"created"`
	Authorizations []authorization `json:"authorizations"`
	// Leaf is the certificate that was issued, Chain what is handed out of it. There
	// is no chain between the step that grants and the record of it.
	Leaf  []byte `json:"leaf,omitempty"`
	Chain []byte `json:"chain,omitempty"`
}

// An authorization is one identifier of an order, which has to be shown.
type authorization struct {
	Identifier identifier  `json:"identifier"`
	Status     status      `json:"status"`
	Challenges []challenge `json:"challenges"`
	// Attested names the key that hardware attested.
	Attested string `json:"attested,omitempty"`
}

// A challenge is one way to show it.
type challenge struct {
	Type      string    `json:"type"`
	Token     string    `json:"token"`
	Status    status    `json:"status"`
	Validated time.Time `json:"validated,omitzero"`
	Error     *problem  `json:"error,omitempty"`
}

func (o *order) expires() time.Time { return o.Created.Add(orderLife) }

func (o *order) status(now time.Time) status {
	if o.Chain != nil {
		return valid
	}
	all := ready
	for _, a := range o.Authorizations {
		switch a.Status {
		case invalid:
			return invalid
		case pending:
			all = pending
		}
	}
	if !now.Before(o.expires()) {
		return invalid
	}
	return all
}

// newOrder is RFC 8555 §7.4.
func (c *call) newOrder() *fault {
	asked, f := c.asked()
	if f != nil {
		return f
	}
	if asked["notBefore"] != nil || asked["notAfter"] != nil {
		return notWellFormed("how long a certificate is valid is not the client's to say")
	}
	ids, f := readIdentifiers(asked["identifiers"])
	if f != nil {
		return f
	}
	o := &order{ID: newID(), Account: c.account.ID, Created: c.s.clock().UTC()}
	for _, id := range ids {
		if f := c.mayHave(id, len(ids)); f != nil {
			return f
		}
		a := authorization{Identifier: id, Status: pending}
		kinds := []string{http01, tlsALPN01}
		if id.Type == permanent {
			kinds = []string{deviceAttest}
		}
		for _, kind := range kinds {
			a.Challenges = append(a.Challenges, challenge{Type: kind, Token: newID() + newID(), Status: pending})
		}
		o.Authorizations = append(o.Authorizations, a)
	}
	err := c.s.store.Update(c.Context(), func(w store.Writer) error { return o.add(w, o.Created) })
	if errors.Is(err, errManyOrders) {
		return faulty(rateLimited, http.StatusTooManyRequests, enrol.OverQuota, "%v", err)
	}
	if err != nil {
		return ours(err)
	}
	c.giveOrder(http.StatusCreated, o)
	return nil
}

// readIdentifiers reads what an order is for.
func readIdentifiers(raw []byte) ([]identifier, *fault) {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil || len(list) == 0 || len(list) > mostNames {
		return nil, notWellFormed("an order is for at least one identifier, and at most %d", mostNames)
	}
	var out []identifier
	for _, raw := range list {
		o, err := object(raw)
		if err != nil {
			return nil, notWellFormed("an identifier is no JSON object")
		}
		var id identifier
		if id.Type, err = text(o, "type"); err == nil {
			id.Value, err = text(o, "value")
		}
		if err != nil {
			return nil, notWellFormed("an identifier has a type and a value")
		}
		if slices.Contains(out, id) {
			return nil, notWellFormed("an identifier is there twice")
		}
		out = append(out, id)
	}
	return out, nil
}

// mayHave reports why an account may not have an identifier, whatever it can show.
func (c *call) mayHave(id identifier, many int) *fault {
	rejected := func(format string, args ...any) *fault {
		f := faulty(rejectedIdentifier, http.StatusForbidden, enrol.BadNames, format, args...)
		f.about = &id
		return f
	}
	switch id.Type {
	case dns:
		s := c.s.serverOf(c.device)
		if s == nil || !slices.Contains(s.Names, id.Value) {
			return rejected("the name is not one of those that the configuration lists for %s (enrolment.acme.servers)", c.device)
		}
		return nil
	case permanent:
		switch {
		case many > 1:
			return rejected("a device's hardware is ordered by itself")
		case enrol.HardwareID(c.record) == "":
			return rejected("the registry does not know what the hardware of %s is called: its serial number, or its tag permanent-identifier", c.device)
		case enrol.HardwareID(c.record) != id.Value:
			return rejected("the hardware of %s is called otherwise in the registry", c.device)
		case c.s.attestationOf(c.record) == nil:
			return rejected("nobody's word is taken for hardware of the manufacturer of %s (enrolment.acme.attestation)", c.device)
		}
		return nil
	}
	f := faulty(unsupportedIdentifier, http.StatusBadRequest, enrol.BadRequest, "the type of an identifier is neither dns nor permanent-identifier")
	f.about = &id
	return f
}

// serverOf returns what the configuration lists for a device, or nil.
func (s *server) serverOf(deviceID string) *config.ACMEServer {
	list := s.settings().Servers
	if i := slices.IndexFunc(list, func(c config.ACMEServer) bool { return c.Device == deviceID }); i >= 0 {
		return &list[i]
	}
	return nil
}

// attestationOf returns whose word is taken for a device's hardware, or nil.
func (s *server) attestationOf(rec *device.Record) *config.ACMEAttestation {
	list := s.settings().Attestation
	if i := slices.IndexFunc(list, func(c config.ACMEAttestation) bool { return strings.EqualFold(c.Manufacturer, rec.Manufacturer) }); i >= 0 {
		return &list[i]
	}
	return nil
}

// order finds the order that a path names, perhaps with more behind it.
func (c *call) order() (o *order, rest string, f *fault) {
	id, rest, _ := strings.Cut(c.Name, "-")
	o, err := c.s.orderOf(c.Context(), c.account.ID, id)
	if err != nil {
		return nil, "", ours(err)
	}
	if o == nil {
		return nil, "", notThere()
	}
	return o, rest, nil
}

// wholeOrder finds the order that a path names, with nothing behind it.
func (c *call) wholeOrder() (*order, *fault) {
	o, rest, f := c.order()
	if f == nil && rest != "" {
		f = notThere()
	}
	return o, f
}

func (c *call) showOrder() *fault {
	o, f := c.wholeOrder()
	if f == nil {
		f = c.asGet()
	}
	if f != nil {
		return f
	}
	c.giveOrder(http.StatusOK, o)
	return nil
}

// giveOrder answers with an order as its owner sees it (RFC 8555 §7.1.3).
func (c *call) giveOrder(code int, o *order) {
	out := struct {
		Status         status       `json:"status"`
		Expires        time.Time    `json:"expires"`
		Identifiers    []identifier `json:"identifiers"`
		Authorizations []string     `json:"authorizations"`
		Finalize       string       `json:"finalize"`
		Certificate    string       `json:"certificate,omitempty"`
		Error          *problem     `json:"error,omitempty"`
	}{Status: o.status(c.s.clock()), Expires: o.expires().Truncate(time.Second), Finalize: c.base() + finalizePath + o.ID}
	for i, a := range o.Authorizations {
		out.Identifiers = append(out.Identifiers, a.Identifier)
		out.Authorizations = append(out.Authorizations, c.base()+authzPath+o.sub(i))
		for _, ch := range a.Challenges {
			if ch.Error != nil && out.Error == nil {
				out.Error = ch.Error
			}
		}
	}
	if o.Chain != nil {
		out.Certificate = c.base() + certPath + o.ID
	}
	c.w.Header().Set("Location", c.base()+orderPath+o.ID)
	c.answer(code, "application/json", out)
}

// finalize is the end of RFC 8555 §7.4.
func (c *call) finalize() *fault {
	asked, f := c.asked()
	if f != nil {
		return f
	}
	var csr string
	if err := json.Unmarshal(asked["csr"], &csr); err != nil {
		return notWellFormed("the payload has no signing request (csr)")
	}
	der, err := decode64(csr)
	if err != nil {
		return faulty(badCSR, http.StatusBadRequest, enrol.BadRequest, "the signing request is not in base64url (RFC 8555 section 7.4)")
	}
	o, f := c.wholeOrder()
	if f != nil {
		return f
	}
	t := c.turn(o)
	if !c.s.busy.take(c.Context(), t) {
		return tooBusy()
	}
	defer c.s.busy.leave(t)
	if o, f = c.wholeOrder(); f != nil { // as it is now that nobody else is at it
		return f
	}
	if st := o.status(c.s.clock()); st != ready {
		return faulty(orderNotReady, http.StatusForbidden, enrol.BadProof, "the order is %s", st)
	}
	proof := enrol.Account{Device: c.account.Device, Opened: c.account.Opened, Again: c.account.Again}
	for _, a := range o.Authorizations {
		// Once more: the configuration and the registry may say otherwise by now.
		if f := c.mayHave(a.Identifier, len(o.Authorizations)); f != nil {
			return f
		}
		if a.Identifier.Type == permanent {
			proof.Attested, proof.Hardware = a.Attested, a.Identifier.Value
		} else {
			proof.Names = append(proof.Names, a.Identifier.Value)
		}
	}
	if o.Leaf != nil {
		if proof.Issued, err = x509.ParseCertificate(o.Leaf); err != nil {
			return ours(err)
		}
	}
	proof.Spend = func(w store.Writer, leaf *x509.Certificate) error {
		o.Leaf = leaf.Raw
		return o.change(w)
	}
	iss, why := c.Enrol(&enrol.Request{Way: enrol.ACME, ID: c.device, CSR: der, Proof: proof})
	if why != nil {
		return ofRefusal(why)
	}
	o.Chain = iss.ChainPEM
	if err := c.s.change(c.Context(), o); err != nil {
		return ours(err)
	}
	c.giveOrder(http.StatusOK, o)
	return nil
}

// certificate is RFC 8555 §7.4.2.
func (c *call) certificate() *fault {
	o, f := c.wholeOrder()
	if f == nil {
		f = c.asGet()
	}
	if f != nil {
		return f
	}
	if o.Chain == nil {
		return notThere()
	}
	c.w.Header().Set("Content-Type", "application/pem-certificate-chain")
	_, _ = c.w.Write(o.Chain)
	return nil
}
