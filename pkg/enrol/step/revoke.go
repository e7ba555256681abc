package step

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/web"
)

// revocation is smallstep's request to revoke. What it says in words is not kept: the
// number says why, and whoever has a device's key writes into no record.
type revocation struct {
	Serial     string `json:"serial"`
	Token      string `json:"ott"`
	ReasonCode int    `json:"reasonCode"`
	Passive    bool   `json:"passive"`
}

// revoke revokes the certificate in the handshake, for whoever has its key: as that,
// they have all that it opens, and to close it takes nothing from anybody else. It is
// for a device that is given away, and for who finds a key where none should be.
// Another's certificate is an operator's to revoke.
func (s *server) revoke(w http.ResponseWriter, r *web.Request) {
	var in revocation
	if err := json.Unmarshal(r.Body, &in); err != nil {
		refused(w, http.StatusBadRequest, "the body is not a request in JSON")
		return
	}
	reason, ok := enrol.HoldersReason(in.ReasonCode)
	switch {
	case in.Token != "":
		refused(w, http.StatusForbidden, "no token revokes anything here: a device revokes its certificate with that and its key (--cert, --key), an operator with anteroom cert revoke")
		return
	case r.Leaf == nil:
		refused(w, http.StatusUnauthorized, "revocation needs the certificate in the TLS handshake (--cert, --key)")
		return
	case in.Serial != r.Leaf.SerialNumber.String():
		refused(w, http.StatusForbidden, "the serial number is not that of the certificate in the TLS handshake, which alone can be revoked with it")
		return
	case !in.Passive:
		refused(w, http.StatusNotImplemented, "revocation is passive in smallstep's words")
		return
	case !ok:
		refused(w, http.StatusBadRequest, "the reason is none of 0, 1, 3, 4, 5 and 9 (RFC 5280 section 5.3.1)")
		return
	}
	q := &enrol.Request{Way: enrol.Smallstep, Proof: enrol.Certificate{Leaf: r.Leaf}}
	why, err := r.Revoke(q, &enrol.Revocation{Fingerprint: ca.Fingerprint(r.Leaf), Reason: reason,
		May: func(*device.Record, *device.Certificate) error { return nil }})
	switch {
	case errors.Is(err, device.ErrWithdrawn):
		refused(w, http.StatusBadRequest, fmt.Sprint(err))
	case why != nil:
		s.deny(w, why)
	default:
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	}
}

// noProvisioners is the answer to step where it would make a token by itself: to
// revoke by serial number, or to enrol without one.
func (s *server) noProvisioners(w http.ResponseWriter, _ *web.Request) {
	refused(w, http.StatusNotFound, "there are no provisioners here: tokens are made with anteroom device token --step, and a certificate is revoked with itself and its key (--cert, --key), or by an operator with anteroom cert revoke")
}
