package acme

import (
	"net/http"
	"slices"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/config"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/jws"
	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// shownAccount is an account as its owner sees it (RFC 8555 §7.1.2). Contacts are
// not kept: whom to call is in the registry.
type shownAccount struct {
	Status string `json:"status"`
	Orders string `json:"orders"`
}

// newAccount is RFC 8555 §7.3: it opens an account, or finds the one there is.
func (c *call) newAccount() *fault {
	asked, f := c.asked()
	if f != nil {
		return f
	}
	only := false
	switch string(asked["onlyReturnExisting"]) {
	case "true":
		only = true
	case "", "false":
	default:
		return notWellFormed("onlyReturnExisting is neither true nor false")
	}
	a, err := c.s.accountByKey(c.Context(), c.key.thumbprint())
	switch {
	case err != nil:
		return ours(err)
	case a != nil:
		c.device = a.Device
		_, err := c.s.registrar.May(a.Device, a.Opened, a.Again)
		if err == nil {
			c.showOpened(http.StatusOK, a)
			return nil
		}
		if only || asked["externalAccountBinding"] == nil {
			return ofUnrecorded(err)
		}
		// With another token the key may go on: clients keep theirs.
	case only:
		f := faulty(accountDoesNotExist, http.StatusBadRequest, enrol.BadProof, "there is no account with this key")
		f.quiet = true // the client asks because it does not know
		return f
	case asked["externalAccountBinding"] == nil:
		return faulty(externalAccountRequired, http.StatusForbidden, enrol.BadProof,
			"an account is bound to a device by a one-time token: anteroom device token ID --acme")
	}
	opening, f := c.binding(asked["externalAccountBinding"])
	if f != nil {
		return f
	}
	fresh := &account{ID: newID(), Key: c.key.canon, Thumb: c.key.thumbprint()}
	opening.Keep = func(w store.Writer, deviceID string, opened time.Time, again bool) error {
		fresh.Device, fresh.Opened, fresh.Again = deviceID, opened, again
		return fresh.keep(w)
	}
	if _, why := c.Open(enrol.ACME, opening); why != nil {
		return ofRefusal(why)
	}
	c.showOpened(http.StatusCreated, fresh)
	return nil
}

func (c *call) showOpened(status int, a *account) {
	c.w.Header().Set("Location", c.base()+accountPath+a.ID)
	c.answer(status, "application/json", shownAccount{string(valid), c.base() + ordersPath + a.ID})
}

// showAccount is RFC 8555 §7.3.2 and §7.3.6: nothing can be changed but that the
// account ends.
func (c *call) showAccount() *fault {
	if c.Name != c.account.ID {
		return notAllowed("the account is another's")
	}
	if len(c.payload) > 0 {
		asked, f := c.asked()
		if f != nil {
			return f
		}
		status, ok := asked["status"]
		if ok && string(status) != `"deactivated"` {
			return notWellFormed("an account can be deactivated, and nothing else")
		}
		if ok {
			if err := c.changes(enrol.AccountEnded); err != nil {
				return ours(err)
			}
			if err := c.s.store.Update(c.Context(), func(w store.Writer) error { return end(w, c.account.ID) }); err != nil {
				return ours(err)
			}
			c.answer(http.StatusOK, "application/json", shownAccount{"deactivated", c.base() + ordersPath + c.account.ID})
			return nil
		}
	}
	c.showOpened(http.StatusOK, c.account)
	return nil
}

// changes records what becomes of the account.
func (c *call) changes(event enrol.AccountEvent) error {
	q := &enrol.Request{Way: enrol.ACME, ID: c.device, Proof: enrol.Account{}, Remote: c.Remote, Listener: config.EnrolmentListener}
	return c.s.registrar.Changes(c.Context(), q, event)
}

// changeKey is RFC 8555 §7.3.5: the account signs, and inside of that its new key
// does.
func (c *call) changeKey() *fault {
	inner, err := readSigned(c.payload)
	if err != nil {
		return notWellFormed("the inner request: %v", err)
	}
	switch {
	case inner.key == nil || inner.kid != "" || inner.nonce != "":
		return notWellFormed("the inner request has a jwk, and neither kid nor nonce")
	case inner.url != c.base()+c.URL.Path:
		return notAllowed("the inner request is signed for another URL")
	case !slices.Contains(algorithms, inner.alg):
		return faulty(badSignatureAlgorithm, http.StatusBadRequest, enrol.BadRequest, "the algorithm is not one of those taken here")
	}
	next, err := readJWK(inner.key)
	if err != nil {
		return faulty(badPublicKey, http.StatusBadRequest, enrol.BadRequest, "the new key: %v", err)
	}
	if err := jws.Verify(next.key, inner.alg, inner.text, inner.sig); err != nil {
		return notAllowed("the inner signature: %v", err)
	}
	asked, err := object(inner.payload)
	if err != nil {
		return notWellFormed("the inner payload: %v", err)
	}
	named, err := text(asked, "account")
	if id, ok := cutAccount(named); err != nil || !ok || id != c.account.ID {
		return notAllowed("the inner request is about another account")
	}
	if old, err := readJWK(asked["oldKey"]); err != nil || old.thumbprint() != c.account.Thumb {
		return notAllowed("the inner request does not name the account's key")
	}
	if other, err := c.s.accountByKey(c.Context(), next.thumbprint()); err != nil {
		return ours(err)
	} else if other != nil {
		return faulty(malformed, http.StatusConflict, enrol.BadKey, "the new key is an account's already")
	}
	if err := c.changes(enrol.AccountRekeyed); err != nil {
		return ours(err)
	}
	if err := c.s.store.Update(c.Context(), func(w store.Writer) error { return c.account.rekey(w, next) }); err != nil {
		return ours(err)
	}
	c.showOpened(http.StatusOK, c.account)
	return nil
}

// listOrders is RFC 8555 §7.1.2.1.
func (c *call) listOrders() *fault {
	if c.Name != c.account.ID {
		return notAllowed("the account is another's")
	}
	if f := c.asGet(); f != nil {
		return f
	}
	list, err := c.s.ordersOf(c.Context(), c.account.ID)
	if err != nil {
		return ours(err)
	}
	urls := []string{}
	for _, o := range list {
		if o.status(c.s.clock()) != invalid {
			urls = append(urls, c.base()+orderPath+o.ID)
		}
	}
	c.answer(http.StatusOK, "application/json", map[string][]string{"orders": urls})
	return nil
}
