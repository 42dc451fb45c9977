// Package contracts holds Shoal's Solidity contracts, compiled, and their Go
// bindings.
//
// src/ is the source; abi/, bin/ and bindings.go are made from it by `make
// contracts` with solc 0.8.37, OpenZeppelin 5.7.0 and abigen 1.17.10, byte for
// byte the same on every machine. artefacts.sha256 has the hashes of both.
//
// The core is immutable: nothing is upgradeable, and governance, a council of
// token holders behind a timelock, can change only the numbers in
// Settlement.Params and the least stake of a validator, within bounds, pause
// deposits and proposals, and name who else may. What each contract holds is in its public
// held; the balance of a contract is never below it.
//
//	Token         ERC-20 with Permit and Votes; the whole supply minted once
//	Staking       stakes with their history, unbonding, slashing, hot keys
//	Runs          runs, their pools, rates and unclaimed rewards
//	Settlement    epoch roots: bond, signatures or silence, claims
//	Disputes      proofs, demands for leaves, cases before a committee
//	Equivocation  two signed messages of one peer that contradict each other
//	Shares        ownership of a run's model, and its revenue; one a run
//	ShareFactory  makes them
//	Vouchers      deposits for paid inference, redeemed by signed vouchers
//	Council       OpenZeppelin's Governor
//	Timelock      OpenZeppelin's TimelockController
package contracts
