<?php
// Two functions that do the same, one twice as often as the other.

function hot(int $rounds): int
{
	$sum = 1;
	for ($round = 0; $round < $rounds; $round++)
		$sum = ($sum * 31 + $round) & 0xffffff;
	return $sum;
}

function warm(int $rounds): int
{
	$sum = 1;
	for ($round = 0; $round < $rounds; $round++)
		$sum = ($sum * 33 + $round) & 0xffffff;
	return $sum;
}

$end = microtime(true) + $argv[1] / 1000;
$sum = 0;
while (microtime(true) < $end)
	$sum ^= hot(20000) ^ warm(10000);
echo "php ended with $sum\n";
