FROM a
RUN <<EOF <<EOF2
x
EOF
more
