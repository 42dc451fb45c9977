// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Conviction, Convictions} from "../src/Convictions.sol";
import {Deployed, Hostile} from "./Hostile.t.sol";

/// @dev What a conviction moves, whatever its numbers and its way.
contract ConvictionsTest is Deployed {
    uint256 private constant HOT = 0xb0b; // the hot key of this contract, the only validator

    Convictions private convictions;
    bytes32 private run;

    function setUp() public {
        deploy();
        convictions = new Convictions(token, settlement, runs, staking, 100e18);
        require(address(convictions) == staking.convictions(), "address");
        address hot = vm.addr(HOT);
        bytes32 h = keccak256(
            abi.encode(
                keccak256("KeyRegistration(address owner,address key,uint256 nonce,uint256 deadline)"),
                address(this), hot, uint256(0), type(uint256).max
            )
        );
        staking.registerKey(hot, type(uint256).max, sign(HOT, typed(staking.domainSeparator(), h)));
        run = publish(token, bytes32(uint256(7)));
        runs.fund(run, 1000e18);
        vm.warp(block.timestamp + 150);
    }

    function typed(bytes32 domain, bytes32 h) private pure returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domain, h));
    }

    function sign(uint256 key, bytes32 digest) private pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function report(Conviction memory c) private {
        bytes[] memory sigs = new bytes[](1);
        sigs[0] = sign(HOT, convictions.digestOf(c));
        convictions.convict(c, sigs);
    }

    function balanced() private view {
        require(token.balanceOf(address(convictions)) == convictions.held(), "convictions");
        require(token.balanceOf(address(staking)) == staking.held(), "staking");
        require(token.balanceOf(address(runs)) == runs.get(run).pool + runs.get(run).unclaimed, "runs");
    }

    /// @dev Any stakes, any part, any way: what is taken goes to the pool or is burned, and the accused pays no more.
    function testFuzzSlash(uint96 trainer, uint96 leaving, uint16 bps, uint8 way, bool ended) public {
        address accused = address(0xacc);
        trainer = trainer % 1e24;
        token.transfer(accused, uint256(trainer) + 300e18);
        vm.startPrank(accused);
        token.approve(address(staking), type(uint256).max);
        token.approve(address(convictions), type(uint256).max);
        if (trainer > 0) staking.stake(0, trainer);
        if (trainer > 0 && leaving % trainer > 0) staking.unbond(0, uint128(leaving % trainer));
        vm.stopPrank();
        Conviction memory c = Conviction(run, accused, bytes32(uint256(1)), bytes32(uint256(2)), uint16(1 + bps % 5000));
        bytes32 id = this.nameOf(c);
        report(c);
        balanced();
        if (ended) runs.end(run);
        (uint256 supply, uint256 pool, uint256 stakes) = (token.totalSupply(), runs.get(run).pool, staking.slashable(accused, 0));
        uint256 lost = (stakes * c.bps) / 10_000;
        uint256 bond;
        way %= 4;
        if (way > 0) {
            vm.prank(accused);
            convictions.appeal(id);
            balanced();
            bond = 100e18;
        }
        if (way == 1) {
            convictions.rule(id, false);
            (lost, bond) = (0, 0);
        } else if (way == 2) {
            convictions.rule(id, true);
        } else {
            vm.warp(block.timestamp + (way == 0 ? 31 : 61));
            convictions.execute(id);
        }
        balanced();
        require(staking.slashable(accused, 0) == stakes - lost, "stake");
        uint256 gained = runs.get(run).pool - pool;
        require(gained == (ended ? 0 : lost / 2), "pool");
        require(supply - token.totalSupply() == lost - gained + bond, "burned");
        vm.expectRevert();
        convictions.execute(id);
        vm.expectRevert();
        this.again(c);
    }

    function nameOf(Conviction calldata c) external view returns (bytes32) {
        return convictions.idOf(c);
    }

    function again(Conviction calldata c) external {
        report(c);
    }

    /// @dev A run that pays in another token gets none of ours, and nothing is stuck.
    function testRunOfAnotherToken() public {
        Hostile h = new Hostile();
        bytes32 other = publish(h, bytes32(uint256(8)));
        vm.warp(block.timestamp + 150);
        Conviction memory c = Conviction(other, address(this), bytes32(uint256(1)), 0, 3000);
        bytes32 i = this.nameOf(c);
        report(c);
        vm.warp(block.timestamp + 31);
        uint256 supply = token.totalSupply();
        convictions.execute(i);
        balanced();
        require(supply - token.totalSupply() == 300e18, "burned");
    }
}
