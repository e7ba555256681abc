package admin

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/enrol/acme"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// Token makes a one-time token with which a device enrols by itself. With a class
// it registers a device that is not in the registry yet.
func (s *Service) Token(ctx context.Context, a Actor, req *TokenRequest) (*Token, error) {
	if err := device.ValidID(req.ID); err != nil {
		return nil, err
	}
	if req.TTL < enrol.MinTokenTTL || req.TTL > enrol.MaxTokenTTL {
		return nil, fmt.Errorf("%w lifetime %v of a token: it goes from %v to %v", device.ErrInvalid, req.TTL, enrol.MinTokenTTL, enrol.MaxTokenTTL)
	}
	out := &Token{}
	rec, ok := s.cfg.State.Devices.Get(req.ID)
	switch {
	case !ok && req.Class == "":
		return nil, fmt.Errorf("%s: %w; with a class, it is registered", req.ID, device.ErrNotFound)
	case !ok:
		var err error
		if rec, err = s.register(ctx, a, &device.Record{ID: req.ID, Class: req.Class}); err != nil {
			return nil, err
		}
		out.Registered = true
	case req.Class != "" && req.Class != rec.Class:
		return nil, fmt.Errorf("%s: %w, and its class is %s", req.ID, device.ErrExists, rec.Class)
	case rec.Status == device.Revoked && req.Again:
	case rec.Status == device.Revoked:
		return nil, fmt.Errorf("%s: %w: it was revoked, and enrolling it anew needs --again", req.ID, device.ErrTransition)
	case rec.Status != device.Pending && rec.Status != device.Active:
		return nil, fmt.Errorf("%s: %w: it is %s, and is given no certificate", req.ID, device.ErrTransition, rec.Status)
	}
	text, tok, err := s.cfg.State.Tokens.Create(ctx, rec.ID, a.Name, req.TTL, req.Again)
	if err != nil {
		return nil, err
	}
	if err := s.revokedSince(rec); err != nil {
		return nil, errors.Join(err, s.cfg.State.Tokens.Withdraw(ctx, rec.ID))
	}
	out.Token, out.Name, out.Device, out.Class, out.Expires = text, tok.Handle, rec.ID, rec.Class, tok.Expires
	out.Warnings = s.unknownClass(rec.Class)
	sum := sha256.Sum256(s.cfg.State.CA.Root().Raw)
	out.RootFingerprint = hex.EncodeToString(sum[:])
	if e := s.cfg.State.Config().Enrolment; e.Address == "off" {
		out.Warnings = append(out.Warnings, "no device can use it: the enrolment listener is off (enrolment.address)")
	} else if _, port, err := net.SplitHostPort(e.Address); err == nil {
		out.URL = "https://" + net.JoinHostPort(e.Hosts[0], port)
	}
	if req.ACME {
		name, key := s.cfg.State.Tokens.Binding(tok)
		out.Token, out.ACME = "", &ACMEBinding{KeyID: name, HMACKey: base64.RawURLEncoding.EncodeToString(key)}
		if out.URL != "" {
			out.ACME.Directory = out.URL + acme.DirectoryPath
		}
	}
	return out, s.commit(ctx, a, "token.created", rec, tokenFields(tok)...)
}

func tokenFields(tok *enrol.Token) []protocol.Field {
	return []protocol.Field{{Name: "token", Value: protocol.String(tok.Handle)}, {Name: "expires", Value: protocol.String(tok.Expires.Format(time.RFC3339))}}
}

// register adds a pending device.
func (s *Service) register(ctx context.Context, a Actor, rec *device.Record) (*device.Record, error) {
	in := facts(rec)
	in.Status = device.Pending
	out, err := s.cfg.State.Devices.Create(ctx, in)
	if err != nil {
		return nil, err
	}
	return out, s.commit(ctx, a, "device.registered", out)
}

// Tokens lists one-time tokens, the youngest first.
func (s *Service) Tokens(ctx context.Context, _ Actor, _ *struct{}) ([]TokenStatus, error) {
	list, err := s.cfg.State.Tokens.List(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]TokenStatus, len(list))
	for i, t := range list {
		out[i] = TokenStatus{Name: t.Handle, Device: t.Device, By: t.By, Created: t.Created, Expires: t.Expires, Used: t.Used, Again: t.Again}
	}
	return out, nil
}

// RevokeToken withdraws a one-time token that was not used.
func (s *Service) RevokeToken(ctx context.Context, a Actor, req *Name) (*Name, error) {
	tok, err := s.cfg.State.Tokens.Revoke(ctx, req.ID)
	if err != nil {
		return nil, err
	}
	rec, ok := s.cfg.State.Devices.Get(tok.Device)
	if !ok {
		return nil, fmt.Errorf("%s: %w", tok.Device, device.ErrNotFound)
	}
	return req, s.commit(ctx, a, "token.revoked", rec, tokenFields(tok)...)
}
