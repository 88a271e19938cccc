FROM alpine
RUN <<EOF
set -e
echo "$HOME" <<INNER
EOF
RUN cat <<A - <<-"B" > /out
a $x
A
	b $x
	B
COPY <<-one.txt <<'two words' /files/
	tabs	go
	one.txt
kept $x
two words
ONBUILD RUN <<EOF
echo later
EOF
