package origin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func TestAnUploadIsReadWholeBeforeItIsAnswered(t *testing.T) {
	srv := httptest.NewServer(Handler())
	t.Cleanup(srv.Close)
	body, feed := io.Pipe()
	answered := make(chan error, 1)
	go func() {
		resp, err := srv.Client().Post(srv.URL, "application/dicom", body)
		if err != nil {
			answered <- err
			return
		}
		defer resp.Body.Close()
		var got Receipt
		if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
			answered <- err
			return
		}
		if got.Bytes != 2*chunk || got.First.IsZero() || time.Since(got.First) < 0 {
			err = errors.New("a wrong receipt")
		}
		answered <- err
	}()
	half := strings.Repeat("x", chunk)
	if _, err := io.WriteString(feed, half); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-answered:
		t.Fatalf("answered after half of it: %v", err)
	default:
	}
	if _, err := io.WriteString(feed, half); err != nil {
		t.Fatal(err)
	}
	feed.Close()
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

func TestADownloadHasTheSizeAskedFor(t *testing.T) {
	const size = 3*chunk + 5
	srv := httptest.NewServer(Handler())
	t.Cleanup(srv.Close)
	resp, err := srv.Client().Get(fmt.Sprintf("%s/dicom-web/studies/%d/series", srv.URL, size))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || n != size || resp.ContentLength != size || resp.StatusCode != http.StatusOK {
		t.Errorf("%d bytes of %d, status %d, %v", n, resp.ContentLength, resp.StatusCode, err)
	}
}

func TestAWebSocketIsHeldUntilItIsEnded(t *testing.T) {
	srv := httptest.NewServer(Handler())
	t.Cleanup(srv.Close)
	c, _, err := websocket.Dial(t.Context(), srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Ping(c.CloseRead(t.Context())); err != nil {
		t.Errorf("a held WebSocket does not answer: %v", err)
	}
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
}
