// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Disputes} from "../src/Disputes.sol";
import {Equivocation} from "../src/Equivocation.sol";
import {Reward, Runs} from "../src/Runs.sol";
import {Epoch, Settlement} from "../src/Settlement.sol";
import {IClaimed, ShareFactory, Shares} from "../src/Shares.sol";
import {Staking} from "../src/Staking.sol";
import {Token} from "../src/Token.sol";
import {Vouchers} from "../src/Vouchers.sol";

interface Vm {
    function warp(uint256 time) external;
    function prank(address who) external;
    function startPrank(address who) external;
    function stopPrank() external;
    function expectRevert() external;
    function getNonce(address who) external view returns (uint64);
    function computeCreateAddress(address who, uint256 nonce) external pure returns (address);
    function addr(uint256 key) external pure returns (address);
    function sign(uint256 key, bytes32 digest) external pure returns (uint8, bytes32, bytes32);
}

/// @dev A token that calls back into whoever holds it, on every transfer.
contract Hostile is ERC20("Hostile", "H") {
    address public target;
    bytes public data;
    bool public succeeded;

    constructor() {
        _mint(msg.sender, 1e30);
    }

    function arm(address target_, bytes calldata data_) external {
        (target, data) = (target_, data_);
    }

    function _update(address from, address to, uint256 value) internal override {
        super._update(from, to, value);
        if (target != address(0)) {
            (address t, bytes memory d) = (target, data);
            target = address(0);
            (bool ok,) = t.call(d);
            succeeded = succeeded || ok;
        }
    }
}

/// @dev A token that keeps one part in a hundred of what is transferred.
contract Greedy is ERC20("Greedy", "G") {
    constructor() {
        _mint(msg.sender, 1e30);
    }

    function _update(address from, address to, uint256 value) internal override {
        if (from != address(0)) {
            super._update(from, address(0xdead), value / 100);
            value -= value / 100;
        }
        super._update(from, to, value);
    }
}

/// @dev A deployment with this contract as governor, guardian and holder of all tokens.
abstract contract Deployed {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    Token internal token;
    Staking internal staking;
    Runs internal runs;
    Settlement internal settlement;
    Disputes internal disputes;
    Vouchers internal vouchers;

    function deploy() internal {
        vm.warp(1_800_000_000);
        uint256 n = vm.getNonce(address(this));
        address[9] memory a;
        for (uint256 i; i < 9; ++i) a[i] = vm.computeCreateAddress(address(this), n + i);
        token = new Token(address(this), 1e27);
        staking = new Staking(token, address(this), address(this), a[4], a[5], a[6], a[8], 600, 100e18);
        ShareFactory factory = new ShareFactory(IClaimed(a[3]));
        runs = new Runs(address(this), address(this), a[4], factory, 300);
        settlement = new Settlement(
            token, address(this), address(this), runs, staking, a[5], 100e18,
            Settlement.Params(60, 30, 30, 30, 30, 60, 3000, 4000, 100)
        );
        disputes = new Disputes(token, settlement, runs, staking, 50e18);
        new Equivocation(staking);
        vouchers = new Vouchers(address(this), address(this), runs, 60);
        require(address(runs) == a[3] && address(vouchers) == a[7], "addresses");
        token.approve(address(staking), type(uint256).max);
        token.approve(address(runs), type(uint256).max);
        token.approve(address(settlement), type(uint256).max);
        token.approve(address(disputes), type(uint256).max);
        token.approve(address(vouchers), type(uint256).max);
        staking.stake(1, 1000e18);
        settlement.depositBond(10_000e18);
    }

    function publish(IERC20 t, bytes32 manifest) internal returns (bytes32) {
        return runs.publish(
            Runs.Terms(t, manifest, uint48(block.timestamp + 1), 100, 1000, true, Runs.Rate(100e18, [uint16(10_000), 0, 0, 0]))
        );
    }

    /// @dev Settles one epoch whose only reward is `amount` in all; `more` leaves the pool.
    function settle(bytes32 run, uint64 number, address account, uint128 amount, uint128 more) internal returns (Reward memory r) {
        uint128 total = runs.get(run).total + more;
        r = Reward(0, account, amount, 0);
        bytes32 root = runs.leafOf(run, r);
        Epoch memory e = Epoch(run, number, 0, root, bytes32(uint256(1)), 1, 1, more, 0, 0, 0, total);
        settlement.propose(e);
        vm.warp(block.timestamp + 61);
        settlement.finalize(e);
    }
}

contract HostileTest is Deployed {
    function setUp() public {
        deploy();
    }

    /// @dev A token that comes back into claim is paid once.
    function testReentrancy() public {
        Hostile h = new Hostile();
        bytes32 run = publish(h, bytes32(uint256(1)));
        bytes32 other = publish(h, bytes32(uint256(2)));
        h.approve(address(runs), type(uint256).max);
        runs.fund(run, 1000e18);
        runs.fund(other, 1000e18);
        vm.warp(block.timestamp + 150);
        Reward memory r = settle(run, 1, address(0xbeef), 50e18, 100e18);
        bytes memory again = abi.encodeCall(Runs.claim, (run, r, new bytes32[](0)));
        h.arm(address(runs), again);
        runs.claim(run, r, new bytes32[](0));
        require(!h.succeeded(), "came back in");
        require(h.balanceOf(address(0xbeef)) == 50e18, "paid once");
        require(h.balanceOf(address(runs)) == 1950e18, "the rest is there");
        h.arm(address(runs), abi.encodeCall(Runs.fund, (run, 1)));
        runs.fund(other, 5e18);
        require(!h.succeeded(), "came back into fund");
    }

    /// @dev A token that keeps a fee is refused: the books would not balance.
    function testFeeOnTransfer() public {
        Greedy g = new Greedy();
        bytes32 run = publish(g, bytes32(uint256(1)));
        g.approve(address(runs), type(uint256).max);
        vm.expectRevert();
        runs.fund(run, 1000e18);
    }

    /// @dev Somebody submits the permit first: the stake goes through all the same.
    function testPermitFrontRun(uint96 amount) public {
        uint128 n = uint128(amount) % 1e24 + 1;
        address who = vm.addr(77);
        token.transfer(who, n);
        bytes32 h = keccak256(
            abi.encode(
                keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                who, address(staking), uint256(n), 0, type(uint256).max
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(77, keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), h)));
        token.permit(who, address(staking), n, type(uint256).max, v, r, s);
        vm.prank(who);
        staking.stakeWithPermit(0, n, type(uint256).max, v, r, s);
        require(staking.stakeOf(who, 0) == n, "staked");
    }
}

/// @dev What the fuzzer does to one run, its disputes, its shares, its channels and the stakes.
contract Handler is Deployed {
    bytes32 public run;
    bytes32[] public channels;
    uint64 public epoch;
    Reward public last;
    Epoch internal pending; // proposed
    Reward internal promised; // its only leaf
    bytes32[] internal demanded;
    address[3] public who = [address(0xa1), address(0xa2), address(0xa3)];

    function start() external {
        require(run == 0, "once");
        deploy();
        run = publish(token, bytes32(uint256(1)));
        runs.fund(run, 1_000_000e18);
        for (uint256 i; i < 2; ++i) { // challengers of their own: one account has one challenge open
            token.transfer(who[i], 1e24);
            vm.prank(who[i]);
            token.approve(address(disputes), type(uint256).max);
        }
    }

    function stake(uint96 n, uint8 role) external {
        staking.stake(role % 2, uint128(n) % 1e24 + 1);
    }

    function unbond(uint96 n) external {
        staking.unbond(0, n);
    }

    function withdraw() external {
        staking.withdraw(0);
    }

    function wait(uint16 n) external {
        vm.warp(block.timestamp + n % 500);
    }

    function fund(uint96 n) external {
        runs.fund(run, uint128(n) % 1e24 + 1);
    }

    /// @dev Settles what is open, then one epoch more; every other time its worker claims and mints at once.
    function epochs(uint8 i, uint96 n) external {
        if (settlement.live(run)) {
            vm.warp(block.timestamp + 100);
            for (uint256 k; k < 2; ++k) try disputes.expire(pending, Disputes.Tree(k), 0) {} catch {}
            try disputes.execute(run) {} catch {}
            if (settlement.live(run)) {
                settlement.finalize(pending);
                (last, epoch) = (promised, pending.number);
            }
        }
        if (runs.epochAt(run, block.timestamp) <= epoch + 1) vm.warp(block.timestamp + 101);
        uint64 number = runs.epochAt(run, block.timestamp) - 1;
        uint128 more = uint128(n) % 100e18 + 1;
        last = settle(run, number, who[i % 3], runs.claimed(run, who[i % 3]) + more, more);
        epoch = number;
        if (n % 2 == 0) return;
        runs.claim(run, last, new bytes32[](0));
        runs.get(run).shares.mint(last.account);
    }

    /// @dev Proposes an epoch unless one is proposed.
    function ready(uint8 i, uint96 n) internal {
        if (settlement.live(run)) return;
        if (runs.epochAt(run, block.timestamp) <= epoch + 1) vm.warp(block.timestamp + 101);
        uint64 number = runs.epochAt(run, block.timestamp) - 1;
        uint128 more = uint128(n) % 100e18 + 1;
        uint128 total = runs.get(run).total + more;
        promised = Reward(0, who[i % 3], runs.claimed(run, who[i % 3]) + more, 0);
        pending = Epoch(run, number, 0, runs.leafOf(run, promised), bytes32(uint256(1)), 1, 1, more, 0, 0, 0, total);
        settlement.propose(pending);
    }

    function finish() external {
        vm.warp(block.timestamp + 61);
        settlement.finalize(pending);
        (last, epoch) = (promised, pending.number);
    }

    function demand(uint8 i, uint96 n, bool receipts) external {
        ready(i, n);
        Disputes.Tree tree = receipts ? Disputes.Tree.Receipts : Disputes.Tree.Rewards;
        if (receipts) vm.prank(who[1]);
        disputes.demand(pending, tree, 0);
        demanded.push(disputes.demandId(run, settlement.proposalOf(run).serial, tree, 0));
    }

    function answer() external {
        disputes.answerReward(pending, promised, new bytes32[](0));
    }

    function expire(bool receipts) external {
        vm.warp(block.timestamp + 31);
        disputes.expire(pending, receipts ? Disputes.Tree.Receipts : Disputes.Tree.Rewards, 0);
    }

    function reclaim(bool receipts) external {
        disputes.reclaim(run, settlement.proposalOf(run).serial, receipts ? Disputes.Tree.Receipts : Disputes.Tree.Rewards, 0);
    }

    function accuse(uint8 i, uint96 n) external {
        ready(i, n);
        vm.prank(who[0]);
        disputes.dispute(pending, bytes32(uint256(1)));
    }

    /// @dev A case up to the count; who hides its vote is punished.
    function judge(uint8 i, uint96 n, bool guilty, bool hide) external {
        ready(i, n);
        disputes.dispute(pending, bytes32(uint256(2)));
        disputes.commitVote(run, disputes.voteHash(run, settlement.proposalOf(run).serial, address(this), guilty, 0));
        vm.warp(block.timestamp + 31);
        if (!hide) disputes.revealVote(run, guilty, 0);
        vm.warp(block.timestamp + 31);
        disputes.decide(run);
        if (hide) disputes.punishAbsent(run, address(this));
    }

    function appeal() external {
        disputes.appeal(run);
    }

    function rule(bool guilty) external {
        disputes.rule(run, settlement.proposalOf(run).serial, guilty);
    }

    function execute() external {
        vm.warp(block.timestamp + 61);
        disputes.execute(run);
    }

    function abandon() external {
        disputes.abandon(run);
    }

    function bonds(uint96 n) external {
        settlement.depositBond(uint128(n) % 1000e18 + 1);
    }

    function unbonds(uint96 n) external {
        settlement.withdrawBond(n);
    }

    function claim(bool mints) external {
        runs.claim(run, last, new bytes32[](0));
        if (mints) runs.get(run).shares.mint(last.account);
    }

    function mint(uint8 i) external {
        runs.get(run).shares.mint(who[i % 3]);
    }

    function move(uint8 i, uint8 j, uint96 n) external {
        Shares s = runs.get(run).shares;
        uint256 has = s.balanceOf(who[i % 3]);
        vm.prank(who[i % 3]);
        s.transfer(who[j % 3], has == 0 ? 0 : n % has);
    }

    function open(uint96 n) external {
        channels.push(vouchers.open(run, who[n % 3], n % 1e24 + 1));
    }

    function distribute(uint96 n) external {
        Shares s = runs.get(run).shares;
        token.approve(address(s), type(uint256).max);
        s.distribute(uint256(n) % 1e24 + 1);
    }

    function collect(uint8 i) external {
        runs.get(run).shares.collect(who[i % 3]);
    }

    function pause(uint8 n) external {
        if (runs.paused()) runs.unpause();
        else if (n < 64) runs.pause();
    }

    /// @dev Bonds of challengers and appellants, added up one by one.
    function challenges() internal view returns (uint256 sum) {
        for (uint256 i; i < demanded.length; ++i) {
            (address challenger,, bool done) = disputes.demands(demanded[i]);
            if (challenger != address(0) && !done) sum += disputes.bond();
        }
        Disputes.Case memory c = disputes.caseOf(run);
        if (c.stage != Disputes.Stage.None && c.stage != Disputes.Stage.Closed) {
            sum += disputes.bond();
            if (c.appellant != address(0)) sum += 2 * disputes.bond();
        }
    }

    /// @dev Every balance is exactly what is owed out of it.
    function balanced() external view returns (bool) {
        Runs.Run memory r = runs.get(run);
        Shares s = r.shares;
        uint256 deposits;
        for (uint256 i; i < channels.length; ++i) {
            Vouchers.Channel memory c = vouchers.get(channels[i]);
            deposits += c.deposit - c.redeemed + c.due;
        }
        uint256 claimed;
        for (uint256 i; i < 3; ++i) claimed += runs.claimed(run, who[i]);
        if (uint256(r.unclaimed) + claimed != r.total) return false; // nothing is paid twice
        uint256 owed = s.waiting();
        for (uint256 i; i < 3; ++i) owed += s.owed(who[i]);
        uint256 held = s.held();
        return token.balanceOf(address(staking)) == staking.held() && staking.held() == staking.slashable(address(this), 0) + staking.slashable(address(this), 1)
            && token.balanceOf(address(disputes)) == disputes.held() && disputes.held() == challenges()
            && settlement.held() == settlement.bonds(address(this)) + (settlement.live(run) ? settlement.bond() : 0)
            && token.balanceOf(address(runs)) == uint256(r.pool) + r.unclaimed && token.balanceOf(address(settlement)) == settlement.held()
            && token.balanceOf(address(vouchers)) == deposits + vouchers.royalties(run) && token.balanceOf(address(s)) == held && owed <= held
            && held - owed <= 1e6;
    }
}

contract BooksTest {
    Handler internal handler;

    function setUp() public {
        handler = new Handler();
        handler.start();
    }

    function targetContracts() public view returns (address[] memory all) {
        all = new address[](1);
        all[0] = address(handler);
    }

    function invariant_booksBalance() public view {
        require(handler.balanced(), "the books do not balance");
    }
}
