package fleet

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// A Device is one of many in a file: its certificate chain and key in DER.
type Device struct {
	ID    string
	Chain [][]byte
	Key   []byte // PKCS#8
}

// A DeviceWriter writes devices, one a line.
type DeviceWriter struct {
	buf *bufio.Writer
	enc *json.Encoder
}

// NewDeviceWriter returns a writer to w, which stays the caller's to close.
func NewDeviceWriter(w io.Writer) *DeviceWriter {
	buf := bufio.NewWriter(w)
	return &DeviceWriter{buf, json.NewEncoder(buf)}
}

// Write adds a device.
func (w *DeviceWriter) Write(d *Device) error { return w.enc.Encode(d) }

// Flush writes out what was added.
func (w *DeviceWriter) Flush() error { return w.buf.Flush() }

// ReadDevices returns the first n devices of a file.
func ReadDevices(path string, n int) ([]tls.Certificate, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := make([]tls.Certificate, 0, n)
	for d := json.NewDecoder(bufio.NewReader(f)); len(out) < n; {
		var dev Device
		if err := d.Decode(&dev); err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("%s holds %d devices, not %d", path, len(out), n)
			}
			return nil, err
		}
		key, err := x509.ParsePKCS8PrivateKey(dev.Key)
		if err != nil {
			return nil, fmt.Errorf("key of %s: %w", dev.ID, err)
		}
		out = append(out, tls.Certificate{Certificate: dev.Chain, PrivateKey: key})
	}
	return out, nil
}
