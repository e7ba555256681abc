package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/jws"
)

var small = Limits{Bytes: 1 << 20, Files: 100}

// an entry is one of an archive that is made by hand.
type entry struct {
	name string
	body string
	kind byte
	link string
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Size: int64(len(e.body)), Mode: 0o644, Typeflag: e.kind, Linkname: e.link}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	if _, err := zw.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func archive(t testing.TB, entries ...entry) []byte { return zipped(t, tarOf(t, entries...)) }

func TestReadTakesWhatTarAndOPAWrite(t *testing.T) {
	b, err := Read(bytes.NewReader(archive(t,
		entry{name: "./", kind: tar.TypeDir}, entry{name: "./b.rego", body: "package b"},
		entry{name: "/a/data.json", body: "{}"}, entry{name: "/.manifest", body: `{"revision":"7","roots":["a","b"]}`})), small)
	if err != nil {
		t.Fatal(err)
	}
	if b.Manifest.Revision != "7" || len(b.Files) != 2 || b.Files[0].Name != "a/data.json" || b.Files[1].Name != "b.rego" {
		t.Errorf("read %+v", b)
	}
}

func TestReadRefuses(t *testing.T) {
	rego := entry{name: "a.rego", body: "package a"}
	many := make([]entry, small.Files+1)
	for i := range many {
		many[i] = entry{name: "f" + strings.Repeat("x", i) + ".rego"}
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"not gzip":             {[]byte("package a"), "not a gzipped archive"},
		"empty":                {nil, "not a gzipped archive"},
		"no files":             {archive(t), "holds no files"},
		"up and out":           {archive(t, entry{name: "../a.rego"}), "not a plain path"},
		"up inside":            {archive(t, entry{name: "a/../../b.rego"}), "not a plain path"},
		"absolute twice":       {archive(t, entry{name: "//etc/passwd"}), "not a plain path"},
		"dots":                 {archive(t, entry{name: "a/./b.rego"}), "not a plain path"},
		"backslash":            {archive(t, entry{name: `a\b.rego`}), "not a plain path"},
		"control":              {archive(t, entry{name: "a\nb.rego"}), "not a plain path"},
		"long":                 {archive(t, entry{name: strings.Repeat("a/", 300) + "b.rego"}), "longer than"},
		"symbolic link":        {archive(t, entry{name: "a.rego", kind: tar.TypeSymlink, link: "/etc/passwd"}), "not a regular file"},
		"hard link":            {archive(t, rego, entry{name: "b.rego", kind: tar.TypeLink, link: "a.rego"}), "not a regular file"},
		"device":               {archive(t, entry{name: "a.rego", kind: tar.TypeChar}), "not a regular file"},
		"twice":                {archive(t, rego, rego), "a.rego: is there twice"},
		"twice, spelt apart":   {archive(t, rego, entry{name: "./a.rego"}), "a.rego: is there twice"},
		"manifest twice":       {archive(t, rego, entry{name: ".manifest", body: "{}"}, entry{name: "/.manifest", body: "{}"}), "is there twice"},
		"second manifest":      {archive(t, rego, entry{name: "a/.manifest", body: "{}"}), "the one manifest"},
		"odd manifest":         {archive(t, rego, entry{name: "x.manifest", body: "{}"}), "the one manifest"},
		"hidden":               {archive(t, rego, entry{name: "a/.b.rego"}), "hidden"},
		"wasm":                 {archive(t, rego, entry{name: "policy.wasm", body: "x"}), "-t rego"},
		"plan":                 {archive(t, rego, entry{name: "plan.json", body: "{}"}), "-t rego"},
		"delta":                {archive(t, rego, entry{name: "patch.json", body: "{}"}), "delta"},
		"manifest no JSON":     {archive(t, rego, entry{name: ".manifest", body: "revision: 1"}), ".manifest: "},
		"manifest two ways":    {archive(t, rego, entry{name: ".manifest", body: `{"revision":"1","revision":"2"}`}), "there twice"},
		"rego v0":              {archive(t, rego, entry{name: ".manifest", body: `{"rego_version":0}`}), "rego_version is 0"},
		"rego v0, one file":    {archive(t, rego, entry{name: ".manifest", body: `{"file_rego_versions":{"/a.rego":0}}`}), "rego_version of /a.rego is 0"},
		"too many files":       {archive(t, many...), "more than 100 files"},
		"one too large":        {archive(t, entry{name: "data.json", body: strings.Repeat(" ", 1<<20+1)}), "larger than allowed"},
		"all too large":        {archive(t, entry{name: "a.json", body: strings.Repeat(" ", 1<<19)}, entry{name: "b.json", body: strings.Repeat(" ", 1<<19+1)}), "larger than allowed"},
		"cut off":              {archive(t, rego)[:40], "read the archive"},
		"after the gzip":       {append(archive(t, rego), archive(t, rego)...), "more after the end"},
		"zeros after the gzip": {append(archive(t, rego), zipped(t, make([]byte, 512))...), "more after the end"},
		"after the tar":        {zipped(t, append(tarOf(t, rego), tarOf(t, entry{name: "b.rego"})...)), "more after the end"},
		"bomb after the tar":   {zipped(t, append(tarOf(t, rego), make([]byte, 16<<20)...)), "larger than allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Read(bytes.NewReader(c.data), small)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

// A header may promise any size; nothing is allocated for a promise past the
// limit, and a small archive that unpacks to a large one is cut off at it.
func TestABombIsNotUnpacked(t *testing.T) {
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zw)
	if err := tw.WriteHeader(&tar.Header{Name: "data.json", Size: 1 << 40, Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if _, err := tw.Write(make([]byte, 64<<20)); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	n := testing.AllocsPerRun(1, func() { _, err = Read(bytes.NewReader(buf.Bytes()), small) })
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("error %v after %v allocations", err, n)
	}
	res := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = Read(bytes.NewReader(buf.Bytes()), small)
		}
	})
	if got := res.AllocedBytesPerOp(); got > 1<<20 {
		t.Errorf("a bomb took %d bytes of memory", got)
	}
}

func testBundle(t testing.TB) *Bundle {
	t.Helper()
	b, err := New([]File{
		{"authz/a.rego", []byte("package anteroom.authz\n")}, {"data.json", []byte(`{"classes": {"pump": 1}}`)},
		{"more/data.yaml", []byte("a: [1, x]\n")}, {"more/other.yaml", []byte("b: 2\n")},
	}, Manifest{Revision: "r1", Metadata: map[string]any{"author": "jane"}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func keyOf(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func certOf(t testing.TB, key crypto.Signer) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "jane"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// again packs and unpacks.
func again(t testing.TB, b *Bundle) *Bundle {
	t.Helper()
	var buf bytes.Buffer
	if err := b.Write(&buf); err != nil {
		t.Fatal(err)
	}
	out, err := Read(&buf, small)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEveryKindOfKeySigns(t *testing.T) {
	ec := func(c elliptic.Curve) crypto.Signer {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0).UTC()
	for _, key := range []crypto.Signer{ec(elliptic.P256()), ec(elliptic.P384()), ec(elliptic.P521()), r, ed} {
		cert := certOf(t, key)
		b := testBundle(t)
		if err := b.Sign(Signer{Key: key, Certificate: cert, Scope: "push", Issuer: "me", Now: now}); err != nil {
			t.Fatalf("%T: %v", key, err)
		}
		b = again(t, b)
		sig, err := b.Verify(Key{Public: key.Public(), Scope: "push", ID: Fingerprint(cert)})
		if err != nil {
			t.Fatalf("%T: %v", key, err)
		}
		if sig.Issuer != "me" || !sig.IssuedAt.Equal(now) || sig.KeyID != Fingerprint(cert) {
			t.Errorf("%T: %+v", key, sig)
		}
		if c, err := b.Certificate(); err != nil || !c.Equal(cert) {
			t.Errorf("%T: certificate %v, %v", key, c, err)
		}
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatalf("no weak key can be made to try it with: %v", err)
	}
	if err := testBundle(t).Sign(Signer{Key: weak}); err == nil {
		t.Error("a weak key signed")
	}
}

// Each class of bytes of a signed bundle is changed in turn.
func TestWhatIsTamperedWithIsRefused(t *testing.T) {
	key, other := keyOf(t), keyOf(t)
	sign := func(b *Bundle, k crypto.Signer) {
		if err := b.Sign(Signer{Key: k, KeyID: "k", Scope: "push", Now: time.Unix(1, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	replace := func(name, body string) func(*Bundle) {
		return func(b *Bundle) {
			i := slices.IndexFunc(b.Files, func(f File) bool { return f.Name == name })
			b.Files[i].Body = []byte(body)
		}
	}
	// token changes the parts of the JWT.
	token := func(f func(h, c map[string]any, sig []byte) []byte) func(*Bundle) {
		return func(b *Bundle) {
			tok, err := b.token()
			if err != nil {
				t.Fatal(err)
			}
			parts := strings.Split(tok, ".")
			var h, c map[string]any
			for i, to := range []*map[string]any{&h, &c} {
				raw, err := base64.RawURLEncoding.DecodeString(parts[i])
				if err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal(raw, to); err != nil {
					t.Fatal(err)
				}
			}
			sig, err := base64.RawURLEncoding.DecodeString(parts[2])
			if err != nil {
				t.Fatal(err)
			}
			sig = f(h, c, sig)
			hj, _ := json.Marshal(h)
			cj, _ := json.Marshal(c)
			enc := base64.RawURLEncoding.EncodeToString
			b.signatures, _ = json.Marshal(map[string]any{"signatures": []string{enc(hj) + "." + enc(cj) + "." + enc(sig)}})
		}
	}
	for name, c := range map[string]struct {
		change func(*Bundle)
		want   string
	}{
		"nothing":            {func(*Bundle) {}, ""},
		"rego":               {replace("authz/a.rego", "package anteroom.authz\nallow contains \"x\"\n"), "digest mismatch"},
		"rego, a space":      {replace("authz/a.rego", "package anteroom.authz \n"), "digest mismatch"},
		"data":               {replace("data.json", `{"classes": {"pump": 2}}`), "digest mismatch"},
		"data, two ways":     {replace("data.json", `{"classes": {"pump": 2}, "classes": {"pump": 1}}`), "there twice"},
		"YAML data":          {replace("more/data.yaml", "a: [1, y]\n"), "digest mismatch"},
		"other data":         {replace("more/other.yaml", "b: 2 \n"), "digest mismatch"},
		"manifest":           {func(b *Bundle) { b.manifest = bytes.Replace(b.manifest, []byte("jane"), []byte("joan"), 1) }, "digest mismatch"},
		"no manifest":        {func(b *Bundle) { b.manifest = nil }, "covers files that are not there: .manifest"},
		"a file more":        {func(b *Bundle) { b.Files = append(b.Files, File{"z.rego", []byte("package z")}) }, "not included in bundle signature"},
		"a file less":        {func(b *Bundle) { b.Files = b.Files[1:] }, "covers files that are not there: authz/a.rego"},
		"another's key":      {func(b *Bundle) { sign(b, other) }, "verify JWT signature"},
		"another scope":      {func(b *Bundle) { _ = b.Sign(Signer{Key: key, KeyID: "k", Scope: "serve"}) }, "scope mismatch"},
		"another key id":     {func(b *Bundle) { _ = b.Sign(Signer{Key: key, KeyID: "l", Scope: "push"}) }, `made with the key "l"`},
		"no signature":       {func(b *Bundle) { b.signatures = nil }, "there is none"},
		"empty signatures":   {func(b *Bundle) { b.signatures = []byte(`{"signatures":[]}`) }, "exactly one is needed, not 0"},
		"two signatures":     {func(b *Bundle) { b.signatures = []byte(`{"signatures":["a.b.c","a.b.c"]}`) }, "exactly one is needed, not 2"},
		"a plugin":           {func(b *Bundle) { b.signatures = []byte(`{"signatures":["a.b.c"],"plugin":"p"}`) }, `plugin "p"`},
		"no JWS":             {func(b *Bundle) { b.signatures = []byte(`{"signatures":["abc"]}`) }, "not a JWS"},
		"payload":            {token(func(_, c map[string]any, s []byte) []byte { c["iat"] = 2; return s }), "verify JWT signature"},
		"signature":          {token(func(_, _ map[string]any, s []byte) []byte { s[10] ^= 1; return s }), "verify JWT signature"},
		"signature cut":      {token(func(_, _ map[string]any, s []byte) []byte { return s[:32] }), "verify JWT signature"},
		"algorithm none":     {token(func(h, _ map[string]any, _ []byte) []byte { h["alg"] = "none"; return nil }), `algorithm "none"`},
		"public key as HMAC": {token(func(h, _ map[string]any, s []byte) []byte { h["alg"] = "HS256"; return s }), `algorithm "HS256"`},
	} {
		t.Run(name, func(t *testing.T) {
			b := testBundle(t)
			sign(b, key)
			c.change(b)
			_, err := again(t, b).Verify(Key{Public: key.Public(), ID: "k", Scope: "push"})
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

// What weak hashes cover can be exchanged.
func TestWeakHashesAreRefused(t *testing.T) {
	key := keyOf(t)
	b := testBundle(t)
	if err := b.Sign(Signer{Key: key}); err != nil {
		t.Fatal(err)
	}
	tok, err := b.token()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(tok, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var c claims
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	c.Files[0].Algorithm = "MD5"
	if tok, err = jws.Compact(jws.Header{}, c, key); err != nil {
		t.Fatal(err)
	}
	b.signatures, _ = json.Marshal(map[string]any{"signatures": []string{tok}})
	if _, err := b.Verify(Key{Public: key.Public()}); err == nil || !strings.Contains(err.Error(), `hashed with "MD5"`) {
		t.Errorf("error %v", err)
	}
}

func TestACertificateInASignatureIsTheKeyIDs(t *testing.T) {
	key := keyOf(t)
	b := testBundle(t)
	if err := b.Sign(Signer{Key: keyOf(t), Certificate: certOf(t, key)}); err == nil {
		t.Error("signed with another key than the certificate's")
	}
	if err := b.Sign(Signer{Key: key, KeyID: "k"}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Certificate(); !errors.Is(err, ErrSignature) {
		t.Errorf("error %v", err)
	}
}

func TestEqualBundlesAreEqualBytes(t *testing.T) {
	var one, two bytes.Buffer
	if err := errors.Join(testBundle(t).Write(&one), testBundle(t).Write(&two)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("they differ")
	}
}

func FuzzRead(f *testing.F) {
	f.Add(archive(f, entry{name: "/a.rego", body: "package a"}, entry{name: "/.manifest", body: `{"revision":"7","roots":["a"]}`}))
	b := testBundle(f)
	key := keyOf(f)
	if err := b.Sign(Signer{Key: key, Certificate: certOf(f, key)}); err != nil {
		f.Fatal(err)
	}
	var buf bytes.Buffer
	if err := b.Write(&buf); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		lim := Limits{Bytes: 64 << 10, Files: 16}
		for _, in := range [][]byte{data, zipped(t, data)} {
			b, err := Read(bytes.NewReader(in), lim)
			if err != nil {
				continue
			}
			_, _ = b.Certificate()
			_, _ = b.Verify(Key{Public: key.Public()})
			out := again(t, b)
			if len(out.Files) != len(b.Files) || out.Manifest.Revision != b.Manifest.Revision {
				t.Fatalf("%+v became %+v", b, out)
			}
		}
	})
}
