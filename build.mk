# Targets that run things: dependencies, tests, checks, models. Included by the Makefile.

deps-build:
	@tools/deps.sh build
deps-test:
	@tools/deps.sh test
.PHONY: deps-build deps-test unit-bins
