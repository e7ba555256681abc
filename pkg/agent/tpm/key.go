package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// BlockType is that of a key of a TPM in PEM.
const BlockType = "TSS2 PRIVATE KEY"

// ownerHierarchy is the parent of a key whose storage key is made from the owner's
// seed each time.
const ownerHierarchy = 0x40000001

// loadable is the type of key that a TPM can load (TCG's arc 2.23.133.10.1).
var loadable = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3}

// file is a key at rest, as draft-bottomley-tpm2-keys has it.
type file struct {
	Type      asn1.ObjectIdentifier
	EmptyAuth bool `asn1:"explicit,tag:0,optional"`
	Parent    int64
	Public    []byte // TPM2B_PUBLIC
	Private   []byte // TPM2B_PRIVATE
}

// storage is the storage key that keys are below: P-256, made from the owner's seed
// by a template that everybody uses for this form of file.
var storage = tpm2.TPMTPublic{
	Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, Decrypt: true,
	},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Symmetric: tpm2.TPMTSymDefObject{
			Algorithm: tpm2.TPMAlgAES,
			KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
			Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		},
		CurveID: tpm2.TPMECCNistP256,
	}),
	Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
}

// signing is a key that signs, was made in the TPM and can not leave it.
var signing = tpm2.TPMTPublic{
	Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true,
	},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Scheme: tpm2.TPMTECCScheme{
			Scheme:  tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
		},
		CurveID: tpm2.TPMECCNistP256,
	}),
}

// A Key is a private key in a TPM.
type Key struct {
	tpm     *TPM
	public  *ecdsa.PublicKey
	outside tpm2.TPM2BPublic
	wrapped tpm2.TPM2BPrivate
}

// New makes a key.
func (t *TPM) New() (*Key, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var made *tpm2.CreateResponse
	err := t.below(func(parent *tpm2.CreatePrimaryResponse) (err error) {
		made, err = tpm2.Create{ParentHandle: owned(parent.ObjectHandle, parent.Name), InPublic: tpm2.New2B(signing)}.Execute(t.conn)
		return err
	})
	if err != nil {
		return nil, t.explain("make a key", err)
	}
	return t.key(made.OutPublic, made.OutPrivate)
}

// Open returns the key that a block of PEM holds, after it was loaded once.
func (t *TPM) Open(block *pem.Block) (*Key, error) {
	var f file
	if rest, err := asn1.Unmarshal(block.Bytes, &f); err != nil || len(rest) > 0 {
		return nil, errors.New("the key is not in the form that a TPM's keys have")
	}
	if !f.Type.Equal(loadable) || !f.EmptyAuth || f.Parent != ownerHierarchy {
		return nil, errors.New("the key is not one that anteroom-agent made in a TPM")
	}
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](f.Public)
	if err != nil {
		return nil, fmt.Errorf("the key's public half: %w", err)
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](f.Private)
	if err != nil {
		return nil, fmt.Errorf("the key's private half: %w", err)
	}
	k, err := t.key(*public, *private)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.with(k, func(tpm2.NamedHandle) error { return nil }); err != nil {
		return nil, t.explain("load the key", err)
	}
	return k, nil
}

func (t *TPM) key(public tpm2.TPM2BPublic, private tpm2.TPM2BPrivate) (*Key, error) {
	area, err := public.Contents()
	if err != nil {
		return nil, fmt.Errorf("the key's public half: %w", err)
	}
	if a := area.ObjectAttributes; !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin || !a.SignEncrypt {
		return nil, errors.New("the key can leave the TPM, was not made in it, or is not one to sign with")
	}
	pub, err := tpm2.Pub(*area)
	if err != nil {
		return nil, fmt.Errorf("the key's public half: %w", err)
	}
	ec, ok := pub.(*ecdsa.PublicKey)
	if !ok || ec.Curve.Params().BitSize != 256 {
		return nil, errors.New("the key is not one of P-256")
	}
	return &Key{tpm: t, public: ec, outside: public, wrapped: private}, nil
}

// PEM returns the key as it rests.
func (k *Key) PEM() ([]byte, error) {
	der, err := asn1.Marshal(file{
		Type: loadable, EmptyAuth: true, Parent: ownerHierarchy, Public: tpm2.Marshal(k.outside), Private: tpm2.Marshal(k.wrapped),
	})
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: BlockType, Bytes: der}), nil
}

// Public implements [crypto.Signer].
func (k *Key) Public() crypto.PublicKey { return k.public }

// Sign implements [crypto.Signer], for digests of SHA-256.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != crypto.SHA256 || len(digest) != crypto.SHA256.Size() {
		return nil, errors.New("the TPM's key signs what was hashed by SHA-256")
	}
	var signed *tpm2.SignResponse
	k.tpm.mu.Lock()
	defer k.tpm.mu.Unlock()
	err := k.tpm.with(k, func(h tpm2.NamedHandle) (err error) {
		signed, err = tpm2.Sign{
			KeyHandle: owned(h.Handle, h.Name), Digest: tpm2.TPM2BDigest{Buffer: digest},
			InScheme: tpm2.TPMTSigScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256}),
			},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
		}.Execute(k.tpm.conn)
		return err
	})
	if err != nil {
		return nil, k.tpm.explain("sign", err)
	}
	sig, err := signed.Signature.Signature.ECDSA()
	if err != nil {
		return nil, k.tpm.explain("sign", err)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig.SignatureR.Buffer), new(big.Int).SetBytes(sig.SignatureS.Buffer)})
}

// owned is an object that is used without a password: whoever can use the TPM can
// use the key, and nobody can take it along.
func owned(h tpm2.TPMHandle, name tpm2.TPM2BName) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: h, Name: name, Auth: tpm2.PasswordAuth(nil)}
}
