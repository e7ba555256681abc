package scep

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"crypto/x509"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// A sealing is how the content of an envelope is encrypted: all in CBC (RFC 8894
// §2.9, RFC 3565).
type sealing struct {
	id     oid
	key    int // octets
	cipher func(key []byte) (cipher.Block, error)
	weak   bool
}

var sealings = []*sealing{
	{oid{2, 16, 840, 1, 101, 3, 4, 1, 2}, 16, aes.NewCipher, false},
	{oid{2, 16, 840, 1, 101, 3, 4, 1, 22}, 24, aes.NewCipher, false},
	{oid{2, 16, 840, 1, 101, 3, 4, 1, 42}, 32, aes.NewCipher, false},
	{oid{1, 2, 840, 113549, 3, 7}, 24, des.NewTripleDESCipher, true},
	{oid{1, 3, 14, 3, 2, 7}, 8, des.NewCipher, true},
}

// An envelope is an EnvelopedData (RFC 5652 §6.1) that is for our key, or for
// another that is not known here.
type envelope struct {
	how     *sealing
	iv      []byte
	key     []byte // encrypted; nil if none is for us
	content []byte
}

// readEnvelope reads an envelope for the holder of a certificate.
func readEnvelope(ber []byte, to *x509.Certificate) (*envelope, error) {
	der, err := toDER(ber)
	if err != nil {
		return nil, errCheck
	}
	in, err := contentOf(der, oidEnvelopedData)
	if err != nil {
		return nil, errCheck
	}
	var version int64
	var recipients, encrypted cryptobyte.String
	if !in.ReadASN1Integer(&version) || !in.SkipOptionalASN1(tag(0)) || !in.ReadASN1(&recipients, asn1.SET) ||
		!in.ReadASN1(&encrypted, asn1.SEQUENCE) || !in.SkipOptionalASN1(tag(1)) || !in.Empty() {
		return nil, errCheck
	}
	e := &envelope{}
	for n := 0; !recipients.Empty(); n++ {
		var one, key cryptobyte.String
		if n == maxRecipients || !recipients.ReadASN1(&one, asn1.SEQUENCE) || !one.ReadASN1Integer(&version) {
			return nil, errCheck
		}
		issuer, serial, ok := identifier(&one)
		how, _, ok2 := algorithm(&one)
		if !ok || !ok2 || !one.ReadASN1(&key, asn1.OCTET_STRING) || !one.Empty() {
			return nil, errCheck
		}
		if bytes.Equal(issuer, to.RawIssuer) && serial.Cmp(to.SerialNumber) == 0 {
			if !how.Equal(oidRSA) {
				return nil, errAlgorithm
			}
			e.key = key
		}
	}
	var kind oid
	if !encrypted.ReadASN1ObjectIdentifier(&kind) || !kind.Equal(oidData) {
		return nil, errCheck
	}
	how, parameters, ok := algorithm(&encrypted)
	if !ok {
		return nil, errCheck
	}
	for _, s := range sealings {
		if s.id.Equal(how) {
			e.how = s
		}
	}
	if e.how == nil {
		return nil, errAlgorithm
	}
	var iv cryptobyte.String
	if !parameters.ReadASN1(&iv, asn1.OCTET_STRING) || !parameters.Empty() {
		return nil, errCheck
	}
	e.iv = iv
	// In one piece, or in several of an implicitly tagged OCTET STRING.
	var content, piece cryptobyte.String
	var has bool
	if encrypted.PeekASN1Tag(tag(0)) {
		if !encrypted.ReadASN1(&content, tag(0)) || !encrypted.Empty() {
			return nil, errCheck
		}
		for !content.Empty() {
			if !content.ReadASN1(&piece, asn1.OCTET_STRING) {
				return nil, errCheck
			}
			e.content = append(e.content, piece...)
		}
		return e, nil
	}
	if !encrypted.ReadOptionalASN1(&content, &has, asn1.Tag(0).ContextSpecific()) || !has || !encrypted.Empty() {
		return nil, errCheck
	}
	e.content = content
	return e, nil
}

// open decrypts the content. That the key does not decrypt, is another's, or leaves
// no padding is not said, and takes as long as if it did: a random key takes the
// place of the one that is not there (RFC 3218 §2.3.2), what comes of it is as
// long, and is no signing request.
func (e *envelope) open(key *rsa.PrivateKey) ([]byte, error) {
	session := make([]byte, e.how.key)
	_, _ = rand.Read(session) // never fails (crypto/rand)
	sealed := e.key
	if len(sealed) != key.Size() {
		sealed = make([]byte, key.Size())
	}
	// SCEP has no other key transport that devices know (RFC 8894 §2.9).
	//lint:ignore SA1019 it is called the way it is safe
	if err := rsa.DecryptPKCS1v15SessionKey(nil, key, sealed, session); err != nil {
		return nil, errCheck // the length of the message, which is no secret
	}
	block, err := e.how.cipher(session)
	if err != nil {
		return nil, errCheck
	}
	size := block.BlockSize()
	if len(e.iv) != size || len(e.content) == 0 || len(e.content)%size != 0 {
		return nil, errCheck
	}
	plain := make([]byte, len(e.content))
	cipher.NewCBCDecrypter(block, e.iv).CryptBlocks(plain, e.content)
	return plain[:len(plain)-padding(plain, size)], nil
}

// padding returns how much padding there is (RFC 5652 §6.3), none if it is not sound,
// in a time that does not depend on it.
func padding(plain []byte, size int) int {
	n := int(plain[len(plain)-1])
	good := subtle.ConstantTimeLessOrEq(1, n) & subtle.ConstantTimeLessOrEq(n, size)
	for i := 1; i <= size; i++ {
		in := subtle.ConstantTimeLessOrEq(i, n)
		same := subtle.ConstantTimeByteEq(plain[len(plain)-i], byte(n))
		good &= subtle.ConstantTimeSelect(in, same, 1)
	}
	return subtle.ConstantTimeSelect(good, n, 0)
}

// seal encrypts content to the holder of a certificate.
func seal(content []byte, to *x509.Certificate, how *sealing) ([]byte, error) {
	pub, ok := to.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, errAlgorithm
	}
	session := make([]byte, how.key)
	_, _ = rand.Read(session) // never fails (crypto/rand)
	block, err := how.cipher(session)
	if err != nil {
		return nil, err
	}
	//lint:ignore SA1019 SCEP has no other key transport that devices know
	key, err := rsa.EncryptPKCS1v15(rand.Reader, pub, session)
	if err != nil {
		return nil, err
	}
	size := block.BlockSize()
	iv := make([]byte, size)
	_, _ = rand.Read(iv)
	n := size - len(content)%size
	sealed := append(bytes.Clone(content), bytes.Repeat([]byte{byte(n)}, n)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(sealed, sealed)

	var b cryptobyte.Builder
	info(&b, oidEnvelopedData, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0)
		b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(0)
				addIdentifier(b, to)
				addAlgorithm(b, oidRSA, nil)
				b.AddASN1OctetString(key)
			})
		})
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidData)
			addAlgorithm(b, how.id, iv)
			b.AddASN1(asn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(sealed) })
		})
	})
	return b.Bytes()
}

// info writes a ContentInfo.
func info(b *cryptobyte.Builder, kind oid, content cryptobyte.BuilderContinuation) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(kind)
		b.AddASN1(tag(0), func(b *cryptobyte.Builder) { b.AddASN1(asn1.SEQUENCE, content) })
	})
}

func addIdentifier(b *cryptobyte.Builder, c *x509.Certificate) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(c.RawIssuer)
		b.AddASN1BigInt(c.SerialNumber)
	})
}

// addAlgorithm writes an AlgorithmIdentifier with an initialization vector, or NULL.
func addAlgorithm(b *cryptobyte.Builder, id oid, iv []byte) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(id)
		if iv == nil {
			b.AddASN1NULL()
		} else {
			b.AddASN1OctetString(iv)
		}
	})
}
