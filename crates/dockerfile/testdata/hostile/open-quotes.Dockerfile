FROM a
ENV x="y
LABEL k=\
COPY 'a
