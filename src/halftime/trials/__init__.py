"""Does it help, and is the result as good? Random blocks of runs, verdicts, proofs."""
