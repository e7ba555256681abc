package step

import (
	"crypto/elliptic"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/anteroom-iomt/anteroom/pkg/enrol/web"
)

// TestWhatRevokesNothingHasAnAnswerInStepsForm, before anybody is asked whose it is.
func TestWhatRevokesNothingHasAnAnswerInStepsForm(t *testing.T) {
	leaf := newShelf(t, ecKey(t, elliptic.P256()), "ES256").cert // its serial number is 1
	for what, c := range map[string]struct {
		body   string
		shown  bool
		status int
		want   string
	}{
		"no JSON":              {`serial=1`, true, http.StatusBadRequest, "not a request in JSON"},
		"a text for a number":  {`{"serial":"1","reasonCode":"1","passive":true}`, true, http.StatusBadRequest, "not a request in JSON"},
		"no certificate":       {`{"serial":"1","passive":true}`, false, http.StatusUnauthorized, "needs the certificate in the TLS handshake"},
		"a token":              {`{"serial":"1","ott":"a.b.c","passive":true}`, false, http.StatusForbidden, "no token revokes anything"},
		"a token and the same": {`{"serial":"1","ott":"a.b.c","passive":true}`, true, http.StatusForbidden, "no token revokes anything"},
		"another's":            {`{"serial":"2","passive":true}`, true, http.StatusForbidden, "which alone can be revoked with it"},
		"another spelling":     {`{"serial":"0x1","passive":true}`, true, http.StatusForbidden, "which alone can be revoked with it"},
		"none":                 {`{"passive":true}`, true, http.StatusForbidden, "which alone can be revoked with it"},
		"what step-ca has not": {`{"serial":"1"}`, true, http.StatusNotImplemented, "passive"},
		"the CA's own end":     {`{"serial":"1","reasonCode":2,"passive":true}`, true, http.StatusBadRequest, "none of 0, 1"},
		"for a while":          {`{"serial":"1","reasonCode":6,"passive":true}`, true, http.StatusBadRequest, "none of 0, 1"},
		"no number of a list":  {`{"serial":"1","reasonCode":-1,"passive":true}`, true, http.StatusBadRequest, "none of 0, 1"},
	} {
		r, w := &web.Request{Body: []byte(c.body)}, httptest.NewRecorder()
		if c.shown {
			r.Leaf = leaf
		}
		(&server{}).revoke(w, r)
		var got struct {
			Status  int
			Message string
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != c.status || got.Status != c.status || !strings.Contains(got.Message, c.want) {
			t.Errorf("%s: %d %s", what, w.Code, w.Body)
		}
	}
}
