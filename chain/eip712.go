package chain

import (
	"errors"
	"fmt"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/shoalnet/shoal/p2p/wire"
)

// A Contract names one contract of a deployment.
type Contract string

// The contracts of a deployment.
const (
	Token        Contract = "token"
	Council      Contract = "council"
	Timelock     Contract = "timelock"
	Staking      Contract = "staking"
	ShareFactory Contract = "shareFactory"
	Runs         Contract = "runs"
	Settlement   Contract = "settlement"
	Disputes     Contract = "disputes"
	Equivocation Contract = "equivocation"
	Vouchers     Contract = "vouchers"
	Convictions  Contract = "convictions"
)

// A Book is where a deployment is: its chain and its contracts' addresses.
type Book struct {
	ChainID   uint64               `json:"chainId"`
	Block     uint64               `json:"block"` // of the first contract: nothing happened before
	Contracts map[Contract]Address `json:"contracts"`
}

// Types of EIP-712 (Bloemen, Logvinov and Evans 2017) that the contracts check.
var (
	domainType  = keccak([]byte("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"))
	receiptType = keccak([]byte("Receipt(bytes32 run,uint64 epoch,address worker,uint8 kind,bytes32 subject,uint64 units)"))
	epochType   = keccak([]byte("Epoch(bytes32 run,uint64 number,bytes32 commit,bytes32 rewards,bytes32 receipts,uint64 accounts,uint64 count,uint128 trainers,uint128 workers,uint128 validators,uint128 sponsor,uint128 total)"))
	voucherType = keccak([]byte("Voucher(bytes32 channel,uint128 cumulative)"))
	keyType     = keccak([]byte("KeyRegistration(address owner,address key,uint256 nonce,uint256 deadline)"))
	permitType  = keccak([]byte("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"))
)

// Domain returns the EIP-712 domain separator of one contract.
func (b Book) Domain(c Contract) Hash {
	name := map[Contract]string{
		Token: "Shoal", Staking: "Shoal Staking", Settlement: "Shoal Settlement",
		Disputes: "Shoal Disputes", Vouchers: "Shoal Vouchers", Convictions: "Shoal Convictions",
	}[c]
	at, n, v := b.Contracts[c], keccak([]byte(name)), keccak([]byte("1"))
	return keccak(domainType[:], n[:], v[:], word(b.ChainID), pad(at[:]))
}

// typed is the digest that is signed: \x19\x01 ‖ domain ‖ hash of the struct.
func (b Book) typed(c Contract, structHash Hash) Hash {
	d := b.Domain(c)
	return keccak([]byte("\x19\x01"), d[:], structHash[:])
}

// ReceiptDigest returns what a worker signs.
func (b Book) ReceiptDigest(r *Receipt) Hash {
	return b.typed(Disputes, keccak(receiptType[:], r.Run[:], word(r.Epoch), pad(r.Worker[:]), word(uint64(r.Kind)), r.Subject[:], word(r.Units)))
}

// EpochDigest returns what a validator signs to finalize e at once.
func (b Book) EpochDigest(e *Epoch) Hash { return b.typed(Settlement, e.Hash()) }

// VoucherDigest returns what a payer signs.
func (b Book) VoucherDigest(channel Hash, cumulative Amount) Hash {
	return b.typed(Vouchers, keccak(voucherType[:], channel[:], wordOf(cumulative)))
}

// KeyDigest returns what a hot key signs to serve owner; nonce is the owner's
// at the staking contract.
func (b Book) KeyDigest(owner, key Address, nonce, deadline uint64) Hash {
	return b.typed(Staking, keccak(keyType[:], pad(owner[:]), pad(key[:]), word(nonce), word(deadline)))
}

// PermitDigest returns what an owner of tokens signs (EIP-2612); nonce is the
// owner's at the token.
func (b Book) PermitDigest(owner, spender Address, value Amount, nonce, deadline uint64) Hash {
	return b.typed(Token, keccak(permitType[:], pad(owner[:]), pad(spender[:]), wordOf(value), word(nonce), word(deadline)))
}

// VoteHash returns what a member of a committee commits to.
func (b Book) VoteHash(run Hash, serial uint64, voter Address, guilty bool, salt Hash) Hash {
	at, g := b.Contracts[Disputes], uint64(0)
	if guilty {
		g = 1
	}
	return keccak(word(b.ChainID), pad(at[:]), run[:], word(serial), pad(voter[:]), word(g), salt[:])
}

// SignDigest signs a 32-byte digest: r ‖ s ‖ v, v in {27, 28}, low s.
func SignDigest(k *wire.Key, digest Hash) []byte {
	var s secp256k1.ModNScalar
	s.SetByteSlice(k.Secret())
	c := ecdsa.SignCompact(secp256k1.NewPrivateKey(&s), digest[:], false)
	return append(c[1:], c[0])
}

// Recover returns who signed digest. It accepts what the contracts accept: 65
// bytes, low s, v in {27, 28}.
func Recover(digest Hash, sig []byte) (Address, error) {
	if len(sig) != 65 {
		return Address{}, fmt.Errorf("signature has %d bytes, want 65", len(sig))
	}
	if v := sig[64]; v != 27 && v != 28 {
		return Address{}, fmt.Errorf("signature's recovery value is %d, want 27 or 28", v)
	}
	var s secp256k1.ModNScalar
	if s.SetByteSlice(sig[32:64]) || s.IsOverHalfOrder() {
		return Address{}, errors.New("signature is malleable (high s)")
	}
	pub, _, err := ecdsa.RecoverCompact(append([]byte{sig[64]}, sig[:64]...), digest[:])
	if err != nil {
		return Address{}, fmt.Errorf("signature: %w", err)
	}
	h := keccak(pub.SerializeUncompressed()[1:])
	return Address(h[12:]), nil
}

// AddressOf returns the account of k.
func AddressOf(k *wire.Key) Address {
	a, err := k.Peer().Address()
	if err != nil { // cannot happen: a Key's peer is on the curve
		return Address{}
	}
	return a
}
